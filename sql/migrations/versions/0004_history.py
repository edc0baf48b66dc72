"""Run 0004_history.sql."""

from alembic import context

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    """Let attempts tell their command and version, and failures their faults by kind."""
    context.config.attributes["run_file"]("0004_history.sql")
