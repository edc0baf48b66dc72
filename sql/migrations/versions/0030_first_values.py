"""Run 0030_first_values.sql."""

from alembic import context

revision = "0030"
down_revision = "0029"


def upgrade() -> None:
    """Keep first promises in the rows of the shipments, and take all blank characters and empty texts for nothing."""
    context.config.attributes["run_file"]("0030_first_values.sql")
