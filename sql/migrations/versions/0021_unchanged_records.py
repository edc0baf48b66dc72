"""Run 0021_unchanged_records.sql."""

from alembic import context

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Make the table of the records that were seen unchanged, and count them."""
    context.config.attributes["run_file"]("0021_unchanged_records.sql")
