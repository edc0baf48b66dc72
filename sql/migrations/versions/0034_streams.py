"""Run 0034_streams.sql."""

from alembic import context

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    """Let the ledger know the streams of events, and how far each is loaded."""
    context.config.attributes["run_file"]("0034_streams.sql")
