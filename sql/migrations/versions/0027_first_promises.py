"""Run 0027_first_promises.sql."""

from alembic import context

revision = "0027"
down_revision = "0025"


def upgrade() -> None:
    """Make the table of the first promised times."""
    context.config.attributes["run_file"]("0027_first_promises.sql")
