"""Run 0040_as_of.sql."""

from alembic import context

revision = "0040"
down_revision = "0037"


def upgrade() -> None:
    """Add the functions that say what the newest event in the data is."""
    context.config.attributes["run_file"]("0040_as_of.sql")
