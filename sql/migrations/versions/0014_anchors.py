"""Run 0014_anchors.sql."""

from alembic import context

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Find each run by one of its marks."""
    context.config.attributes["run_file"]("0014_anchors.sql")
