"""Records that say that their key is gone (`delete_if`): the table of the keys, with the version of each deletion.

It is a table of the dataset that takes these records, as a table with `where` takes its own. Pure.
"""

from collections.abc import Iterator

import msgspec

from etl.datasets import paths
from etl.datasets.definition import Column, Condition, Dataset, Table
from etl.datasets.problems import NAME_LENGTH, condition_problems

_ENDING = "_deleted"


def with_deletions(dataset: Dataset, conditions: tuple[Condition, ...]) -> Dataset:
    """Return a dataset whose records delete their key where all of these conditions hold."""
    first = dataset.tables[0]
    names = dict.fromkeys((*dataset.key, *([dataset.newest_by] if dataset.newest_by else [])))
    table = Table(
        name=f"{first.name}{_ENDING}",
        columns=tuple(_column(column) for name in names if (column := first.column(name))),
        where=conditions,
        deletes=True,
        comment=f"keys of {first.name} that a record deleted, with the version of the last deletion: an older record of"
        " the key stays out",
    )
    return msgspec.structs.replace(dataset, tables=(*dataset.tables, table))


def problems(dataset: Dataset, conditions: tuple[Condition, ...]) -> Iterator[str]:
    """Yield why records of a dataset cannot delete by these conditions; the dataset is right without them."""
    first = dataset.tables[0]
    if dataset.mode != "merge":
        yield f"delete_if expects mode merge: {dataset.mode} has no row of the key to delete"
        return
    if len(dataset.record_tables) > 1:
        yield "delete_if expects one table without `each`"
    if dataset.on_duplicate in {"first", "reject"}:
        yield f"delete_if and on_duplicate = {dataset.on_duplicate!r} exclude each other: a key has several records"
    for condition in conditions:
        yield from (f"delete_if{problem}" for problem in condition_problems(condition, first))
    name = f"{first.name.rpartition('.')[2]}{_ENDING}"
    if len(name) > NAME_LENGTH:
        yield f"delete_if makes the table {name}, whose name is longer than {NAME_LENGTH} letters"
    if any(table.name == f"{first.name}{_ENDING}" for table in dataset.tables):
        yield f"delete_if makes the table {first.name}{_ENDING}, and the definition has one of this name"


def _column(column: Column) -> Column:
    """Return the column for the keys; a change event has the key in `before`, where `after` has none."""
    before = paths.spelling(tuple("before" if step == "after" else step for step in column.value_path.steps))
    is_of_change = column.value is None and "after" in column.value_path.steps
    return msgspec.structs.replace(
        column,
        path=before if is_of_change else column.path,
        other_path=column.path if is_of_change else "",
        misfits_to=None,
        keep_first=False,
        comment=None,
    )
