"""Run 0052_mapped_names.sql."""

from alembic import context

revision = "0052"
down_revision = "0051"


def upgrade() -> None:
    """Find mapped names and states by a look at one value instead of nine joins."""
    context.config.attributes["run_file"]("0052_mapped_names.sql")
