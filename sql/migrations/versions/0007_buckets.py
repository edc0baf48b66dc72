"""Run 0007_buckets.sql."""

from alembic import context

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    """Let aggregates have buckets of a week and of an hour."""
    context.config.attributes["run_file"]("0007_buckets.sql")
