"""The oracle: the rows that the tables must have after a mixture, from the contents of its sources alone."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.support.mixtures.execution import Record as Happened
from tests.support.mixtures.exports import Dataset, Export, Record
from tests.support.mixtures.plan import Plan

Row = tuple[Any, ...]

# What one edit by hand adds to the cost of a row.
ADDED = 100_000


@dataclass(kw_only=True)
class Expected:
    """The rows of each table, and the records that must wait in the failed store.

    Of a key in `kept`, the table has no row, or one of these: its record is refused, and a replace keeps the row that
    there was.
    """

    rows: dict[str, Counter[Row]] = field(default_factory=dict)
    kept: dict[str, frozenset[Row]] = field(default_factory=dict)
    pending: Counter[str] = field(default_factory=Counter)


def expect(plan: Plan, happened: Happened, discarded: Iterable[str]) -> Expected:
    """Return what is expected when every source was loaded, and everything pending replayed.

    `discarded` names the failures that the ledger has as discarded. Of the sources of the stock the last one counts.
    """
    lost = {status for failure in discarded for status in happened.discards[failure]}
    expected = Expected()
    exports = _by_dataset(plan)
    _expect_movements(expected, exports["movements"], happened, lost)
    _expect_shipments(expected, exports["shipments"], happened, lost)
    _expect_stock(expected, exports["stock"], lost)
    counting = [*exports["movements"], *exports["shipments"], exports["stock"][-1]]
    bad = [record.status for export in counting for record in export.records if record.fate == "bad"]
    expected.pending = Counter(status for status in bad if status not in lost)
    return expected


def _by_dataset(plan: Plan) -> dict[Dataset, list[Export]]:
    found: dict[Dataset, list[Export]] = {"movements": [], "shipments": [], "stock": []}
    for export in plan.exports:
        found[export.dataset].append(export)
    return found


def _loads(record: Record, lost: set[str]) -> bool:
    return record.fate != "bad" and record.status not in lost


def _row(record: Record, edits: int = 0) -> Row:
    pieces = 12 if record.fate == "dozen" else record.version % 7
    return record.key, record.status, pieces, record.version + ADDED * edits


def _items(records: Iterable[Record]) -> Counter[Row]:
    return Counter((record.key, line + 1, record.status) for record in records for line in range(record.count_items))


def _expect_movements(expected: Expected, exports: list[Export], happened: Happened, lost: set[str]) -> None:
    edits = Counter(status for kind, _, _, status in happened.edits if kind != "delete")
    deleted = {status for kind, *_, status in happened.edits if kind == "delete"}
    loaded = [record for export in exports for record in export.records if _loads(record, lost)]
    rows = [_row(record, edits[record.status]) for record in loaded if record.status not in deleted]
    expected.rows["movements"] = Counter(rows)
    expected.rows["movement_items"] = _items(loaded)


def _expect_shipments(expected: Expected, exports: list[Export], happened: Happened, lost: set[str]) -> None:
    edits = Counter(status for _, _, _, status in happened.edits)
    newest: dict[str, Record] = {}
    for record in (record for export in exports for record in export.records if _loads(record, lost)):
        if record.key not in newest or newest[record.key].version < record.version:
            newest[record.key] = record
    expected.rows["shipments"] = Counter(_row(record, edits[record.status]) for record in newest.values())
    expected.rows["shipment_items"] = _items(newest.values())


def _expect_stock(expected: Expected, exports: list[Export], lost: set[str]) -> None:
    last = exports[-1].records
    expected.rows["stock"] = Counter(_row(record) for record in last if _loads(record, lost))
    for record in last:
        if not _loads(record, lost):
            earlier = [each for export in exports for each in export.records if each.key == record.key]
            expected.kept[record.key] = frozenset(_row(each) for each in earlier if each.fate != "bad")
