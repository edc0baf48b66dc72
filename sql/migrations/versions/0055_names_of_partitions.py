"""Run 0055_names_of_partitions.sql."""

from alembic import context

revision = "0055"
down_revision = "0054"


def upgrade() -> None:
    """Let long names and default partitions hinder no partition; note which tables a removal has emptied."""
    context.config.attributes["run_file"]("0055_names_of_partitions.sql")
