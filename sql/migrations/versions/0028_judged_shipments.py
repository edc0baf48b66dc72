"""Run 0028_judged_shipments.sql."""

from alembic import context

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    """Make the reference tables and the functions that all aggregates on shipments use."""
    context.config.attributes["run_file"]("0028_judged_shipments.sql")
