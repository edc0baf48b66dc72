"""Run 0046_similar_lanes.sql."""

from alembic import context

revision = "0046"
down_revision = "0044"


def upgrade() -> None:
    """Make the function that finds the lanes most like a lane."""
    context.config.attributes["run_file"]("0046_similar_lanes.sql")
