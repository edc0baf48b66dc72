"""Run 0047_partitions.sql."""

from alembic import context

revision = "0047"
down_revision = "0046"


def upgrade() -> None:
    """Make the list of partitioned facts, and the function that makes partitions of them."""
    context.config.attributes["run_file"]("0047_partitions.sql")
