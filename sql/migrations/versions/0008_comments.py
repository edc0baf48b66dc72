"""Run 0008_comments.sql."""

from alembic import context

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    """Describe the tables of the ledger in plain English."""
    context.config.attributes["run_file"]("0008_comments.sql")
