"""Run 0029_histories.sql."""

from alembic import context

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    """Make the list of the tables with history, and the function that begins a version."""
    context.config.attributes["run_file"]("0029_histories.sql")
