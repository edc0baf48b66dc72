"""Run 0001_ledger.sql."""

from alembic import context

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Make the schemas, the roles and the ledger."""
    context.config.attributes["run_file"]("0001_ledger.sql")
