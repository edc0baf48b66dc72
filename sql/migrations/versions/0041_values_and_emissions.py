"""Run 0041_values_and_emissions.sql."""

from alembic import context

revision = "0041"
down_revision = "0040"


def upgrade() -> None:
    """Add the tables of emission factors, and functions for values, claims and emissions of shipments."""
    context.config.attributes["run_file"]("0041_values_and_emissions.sql")
