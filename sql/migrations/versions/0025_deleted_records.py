"""Run 0025_deleted_records.sql."""

from alembic import context

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    """Count the records that deleted their key."""
    context.config.attributes["run_file"]("0025_deleted_records.sql")
