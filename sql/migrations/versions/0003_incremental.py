"""Run 0003_incremental.sql."""

from alembic import context

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Make the tables of what was touched and what is pending, and a fuller view of freshness."""
    context.config.attributes["run_file"]("0003_incremental.sql")
