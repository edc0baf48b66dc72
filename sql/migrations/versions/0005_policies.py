"""Run 0005_policies.sql."""

from alembic import context

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Keep what policies did with the records of a batch."""
    context.config.attributes["run_file"]("0005_policies.sql")
