"""Run 0018_undone_runs.sql."""

from alembic import context

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Let a run be taken back: when, by whom, and how many rows were deleted."""
    context.config.attributes["run_file"]("0018_undone_runs.sql")
