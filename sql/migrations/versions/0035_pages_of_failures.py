"""Run 0035_pages_of_failures.sql."""

from alembic import context

revision = "0035"
down_revision = "0034"


def upgrade() -> None:
    """Let a page of the files of the failed store begin at any place."""
    context.config.attributes["run_file"]("0035_pages_of_failures.sql")
