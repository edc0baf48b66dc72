"""Run 0006_duplicates.sql."""

from alembic import context

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    """Keep what is done with records of one source that have the same key."""
    context.config.attributes["run_file"]("0006_duplicates.sql")
