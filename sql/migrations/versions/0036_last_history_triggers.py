"""Run 0036_last_history_triggers.sql."""

from alembic import context

revision = "0036"
down_revision = "0035"


def upgrade() -> None:
    """Let the triggers of histories come after those of users."""
    context.config.attributes["run_file"]("0036_last_history_triggers.sql")
