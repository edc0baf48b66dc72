"""Run 0054_divisions_by_hash.sql."""

from alembic import context

revision = "0054"
down_revision = "0052"


def upgrade() -> None:
    """Turn tables into ones that are divided by the hash of their key."""
    context.config.attributes["run_file"]("0054_divisions_by_hash.sql")
