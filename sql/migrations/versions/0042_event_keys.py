"""Run 0042_event_keys.sql."""

from alembic import context

revision = "0042"
down_revision = "0041"


def upgrade() -> None:
    """Let the ledger know the requests whose events are loaded without a buffer."""
    context.config.attributes["run_file"]("0042_event_keys.sql")
