"""Run 0023_packed_batches.sql."""

from alembic import context

revision = "0023"
down_revision = "0021"


def upgrade() -> None:
    """Let the batches of an old run become one row."""
    context.config.attributes["run_file"]("0023_packed_batches.sql")
