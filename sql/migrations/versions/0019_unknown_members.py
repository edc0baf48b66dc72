"""Run 0019_unknown_members.sql."""

from alembic import context

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    """Say how unknown members are counted."""
    context.config.attributes["run_file"]("0019_unknown_members.sql")
