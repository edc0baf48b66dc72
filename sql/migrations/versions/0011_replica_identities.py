"""Run 0011_replica_identities.sql."""

from alembic import context

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Give the tables without a primary key a replica identity."""
    context.config.attributes["run_file"]("0011_replica_identities.sql")
