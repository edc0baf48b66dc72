"""Run 0048_lost_partitions.sql."""

from alembic import context

revision = "0048"
down_revision = "0047"


def upgrade() -> None:
    """Note changes by the name of a partition, and partitions that a person removes."""
    context.config.attributes["run_file"]("0048_lost_partitions.sql")
