"""Run 0009_marks.sql."""

from alembic import context

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the marks of the sources."""
    context.config.attributes["run_file"]("0009_marks.sql")
