"""Run 0010_deletions.sql."""

from alembic import context

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Note what a replace deleted and kept."""
    context.config.attributes["run_file"]("0010_deletions.sql")
