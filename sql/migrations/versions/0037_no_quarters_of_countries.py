"""Run 0037_no_quarters_of_countries.sql."""

from alembic import context

revision = "0037"
down_revision = "0036"


def upgrade() -> None:
    """Drop two aggregates whose refresh took more than they were worth."""
    context.config.attributes["run_file"]("0037_no_quarters_of_countries.sql")
