"""Run 0051_divisions.sql."""

from alembic import context

revision = "0051"
down_revision = "0050"


def upgrade() -> None:
    """Turn tables into partitioned ones while they are in use."""
    context.config.attributes["run_file"]("0051_divisions.sql")
