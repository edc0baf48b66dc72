"""Run 0031_versions.sql."""

from alembic import context

revision = "0031"
down_revision = "0030"


def upgrade() -> None:
    """Give each aggregate a version that rises only when its rows changed."""
    context.config.attributes["run_file"]("0031_versions.sql")
