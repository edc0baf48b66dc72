"""Run 0020_known_sources.sql."""

from alembic import context

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Make the table of the sources that commands found loaded already."""
    context.config.attributes["run_file"]("0020_known_sources.sql")
