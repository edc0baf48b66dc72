"""Rows of the ledger are read as values."""

import pytest

from etl.errors import InternalError, UsageError
from etl.ingestion.ledger import batches, failures, runs
from tests.support.faults import Connection


def test_a_missing_row_that_must_exist_is_a_fault_of_this_tool(postgresql: Connection) -> None:
    """A run that a failure names must be in the ledger; an id that a user enters may be wrong."""
    with pytest.raises(InternalError, match="expected a row of a statement, got none"):
        runs.for_replay(postgresql, "nothing")
    with pytest.raises(UsageError, match="nothing in the failed store is called nothing"):
        failures.named(postgresql, "nothing")


def test_sums_of_a_run_without_batches_are_zero(postgresql: Connection) -> None:
    """A sum over no batch is zero, not null."""
    assert batches.totals(postgresql, "nothing") == batches.Totals(records=0, rejected=0)
