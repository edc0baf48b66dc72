"""Run 0017_staged_rows.sql."""

from alembic import context

revision = "0017"
down_revision = "0014"


def upgrade() -> None:
    """Say which rows a batch counts; loaders may remove batches whose staged rows are gone."""
    context.config.attributes["run_file"]("0017_staged_rows.sql")
