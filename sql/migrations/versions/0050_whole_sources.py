"""Run 0050_whole_sources.sql."""

from alembic import context

revision = "0050"
down_revision = "0049"


def upgrade() -> None:
    """Store the batch and the marks of a small file with its run."""
    context.config.attributes["run_file"]("0050_whole_sources.sql")
