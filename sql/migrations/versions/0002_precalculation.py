"""Run 0002_precalculation.sql."""

from alembic import context

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Make the table of refreshes and the view of freshness."""
    context.config.attributes["run_file"]("0002_precalculation.sql")
