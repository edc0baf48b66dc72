"""Run 0013_future_events.sql."""

from alembic import context

revision = "0013"
down_revision = "0011"


def upgrade() -> None:
    """Keep times in the future apart from the newest time of the facts."""
    context.config.attributes["run_file"]("0013_future_events.sql")
