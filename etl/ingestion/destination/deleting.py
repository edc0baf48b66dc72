"""The statements of a merge whose records may delete their key (`delete_if`). Runs nothing.

The version of a deletion stays in a table of its own, so that an older record never brings its key back, whichever
batch comes first. Batches with deletions run one at a time: another batch would insert an older record that a deletion,
not yet visible to it, has to keep out.
"""

from typing import Literal

import msgspec
from psycopg import sql

from etl import queries
from etl.datasets import Dataset, Table, listed, same_key
from etl.ingestion.destination import merging
from etl.ingestion.destination.merging import Against, Placeholders, Sources, Statement

_SQL = queries.load("deleting")
_MERGING = queries.load("merging")
_LOCKS = {"exclusive": queries.load("tables")["hold_writers"], "shared": _SQL["lock_shared"]}

Lock = Literal["exclusive", "shared"]


def merge(
    dataset: Dataset,
    sources: Sources,
    won: sql.Composable,
    *,
    against: Against = "all",
    lock: Lock = "exclusive",
    is_batch: bool = False,
) -> list[Statement]:
    """Return the statements that delete the keys of the records that delete, and merge the others.

    A `shared` lock is for sources without a deletion: it waits for batches with some, and for no other.
    """
    if dataset.deletions is None:
        return merging.merge(dataset, sources, won, against=against, is_batch=is_batch)
    number, deletions = dataset.deletions
    *tables, _ = dataset.tables
    others = msgspec.structs.replace(dataset, tables=tuple(tables))
    names = merging.placeholders(dataset, deletions, sources[number], won)
    statements = [
        Statement(text=_LOCKS[lock].format(**names), table=number),
        Statement(text=_MERGING["merge_records"].format(**names), table=number, expected=merging.count_writes(names)),
    ]
    children = [(place, table) for place, table in enumerate(tables) if table.each]
    records = names | {
        "deletions": deletions.identifier,
        "table": tables[0].identifier,
        "key_of_excluded": listed(dataset.key, "excluded"),
    }
    for place, table in children:
        statements.append(_of_children(place, table, dataset, records))
    statements.append(
        Statement(text=_SQL["delete_records"].format(**records), table=0, left=_SQL["count_records"].format(**records))
    )
    first, *rest = sources
    kept = _SQL["not_deleted"].format(
        **records | {"source": first, "columns_of_old": merging.columns(tables[0], "old")}
    )
    return [*statements, *merging.merge(others, [kept, *rest[: number - 1]], won, against=against, is_batch=is_batch)]


def _of_children(place: int, table: Table, dataset: Dataset, records: Placeholders) -> Statement:
    names = records | {
        "child": table.identifier,
        "is_key_of_child": same_key(dataset.key, "child", "old"),
    }
    return Statement(
        text=_SQL["delete_children"].format(**names), table=place, left=_SQL["count_children"].format(**names)
    )
