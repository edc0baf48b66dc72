"""Run 0033_group_attempts.sql."""

from alembic import context

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    """Let the runs of a group of small files share one attempt."""
    context.config.attributes["run_file"]("0033_group_attempts.sql")
