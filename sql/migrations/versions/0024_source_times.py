"""Run 0024_source_times.sql."""

from alembic import context

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Add the time of the file to a run."""
    context.config.attributes["run_file"]("0024_source_times.sql")
