"""Run 0032_runs_with_unknown_members.sql."""

from alembic import context

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    """Let a run say whether its records may have unknown members."""
    context.config.attributes["run_file"]("0032_runs_with_unknown_members.sql")
