"""Run 0044_exports.sql."""

from alembic import context

revision = "0044"
down_revision = "0042"


def upgrade() -> None:
    """Let exports follow the changes of facts, as aggregates do."""
    context.config.attributes["run_file"]("0044_exports.sql")
