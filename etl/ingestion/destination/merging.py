"""The statements that write rows into the facts: append, merge, replace. Runs nothing.

A source of rows is a table or a parenthesized select with the columns and lineage of a fact table; there is one source
for each table of the dataset. `won` are the records whose version won, by batch and place.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from psycopg import sql

from etl import queries
from etl.datasets import LINEAGE, Dataset, Table

_SQL = queries.load("merging")

WON = sql.Identifier("pg_temp", "etl_won")

Sources = Sequence[sql.Composable]

Against = Literal["all", "own", "none"]
"""The rows that a version is compared with: all rows of its key, those of its own run, or none. With "none" the server
refuses a key that exists; being ready for a conflict costs a third more.
"""

Statements = Callable[[Sources, sql.Composable], list[sql.Composed]]
"""Returns the statements that write the rows, given a source for each table and the records that won."""


def append(dataset: Dataset, targets: Sources, sources: Sources) -> list[sql.Composed]:
    """Return the statements that insert all rows of the sources."""
    return [
        _SQL["insert_all"].format(table=target, columns=columns(table), source=source)
        for table, target, source in zip(dataset.tables, targets, sources, strict=True)
    ]


def append_newest(dataset: Dataset, sources: Sources, won: sql.Composable) -> list[sql.Composed]:
    """Return the statements that insert the newest version of each key and replace older versions of the same run.

    The server refuses a key that another run loaded.
    """
    insert_others = [
        _SQL["insert_unbeaten"].format(**_placeholders(dataset, table, rows, won))
        for table, rows in zip(dataset.tables, sources, strict=True)
        if not table.each
    ]
    return [*merge(dataset, sources, won, against="own"), *insert_others]


def merge(dataset: Dataset, sources: Sources, won: sql.Composable, *, against: Against = "all") -> list[sql.Composed]:
    """Return the statements that keep the newest version of each key, and its child rows."""
    (first, source), *children = zip(dataset.tables, sources, strict=True)
    if not any(table.each for table in dataset.tables):
        pairs = zip(dataset.tables, sources, strict=True)
        return [
            _SQL["merge_records"].format(**_placeholders(dataset, table, rows, won, against=against))
            for table, rows in pairs
        ]
    placeholders = _placeholders(dataset, first, source, won, against=against)
    statements = [_SQL["merge_records_returning"].format(**placeholders)]
    for child, rows in children:
        placeholders = _placeholders(dataset, child, rows, won, child=True)
        statements += [_SQL[name].format(**placeholders) for name in ("delete_children", "insert_children")]
    return statements


def clear(dataset: Dataset, sources: Sources) -> list[sql.Composed]:
    """Return the statements of a replace that delete what the sources do not hold."""
    if not dataset.key:
        return [_SQL["delete_all"].format(table=table.identifier) for table in dataset.tables]
    return [
        _SQL["delete_absent"].format(**_placeholders(dataset, table, rows, WON))
        for table, rows in zip(dataset.tables, sources, strict=True)
        if not table.each
    ]


def replace(dataset: Dataset, sources: Sources) -> list[sql.Composed]:
    """Return the statements after which the facts hold the rows of the sources and no others; equal rows stay."""
    if not dataset.key:
        deletes = [_SQL["delete_all"].format(table=table.identifier) for table in dataset.tables]
        return deletes + append(dataset, [table.identifier for table in dataset.tables], sources)
    statements = [
        _SQL[name].format(**_placeholders(dataset, table, rows, WON))
        for table, rows in zip(dataset.tables, sources, strict=True)
        for name in ("delete_absent", "replace_records")
        if not table.each
    ]
    children = [pair for pair in zip(dataset.tables, sources, strict=True) if pair[0].each]
    if children:
        statements.append(_SQL["keep_newest"].format(**_placeholders(dataset, dataset.tables[0], sources[0], WON)))
    for child, rows in children:
        placeholders = _placeholders(dataset, child, rows, WON, child=True)
        statements += [_SQL[name].format(**placeholders) for name in ("delete_losers", "replace_children")]
    return statements


def make_won(dataset: Dataset) -> list[sql.Composed]:
    """Return the statements that make the table of the records that won, once per connection."""
    placeholders = {"won": WON, "table": dataset.tables[0].identifier, "key": _list(dataset.key)}
    return [_SQL["make_won"].format(**placeholders), _SQL["index_won"].format(**placeholders)]


def columns(table: Table, alias: str | None = None, *, lineage: bool = True) -> sql.Composed:
    """Return the column names of a table as a list, with or without lineage."""
    names = tuple(column.name for column in table.columns)
    return _list(names + (LINEAGE if lineage else ()), alias)


def _placeholders(
    dataset: Dataset,
    table: Table,
    source: sql.Composable,
    won: sql.Composable,
    *,
    child: bool = False,
    against: Against = "all",
) -> dict[str, sql.Composable]:
    key = dataset.key
    names = (*(column.name for column in table.columns), *LINEAGE)
    assignments = sql.SQL(", ").join(
        sql.SQL("{name} = excluded.{name}").format(name=sql.Identifier(name)) for name in names if name not in key
    )
    return {
        "table": table.identifier,
        "source": source,
        "won": won,
        "won_table": WON,
        "columns": columns(table),
        "columns_of_child": columns(table, "child"),
        "data": columns(table, lineage=False),
        "data_of_old": columns(table, "old", lineage=False),
        "data_of_excluded": columns(table, "excluded", lineage=False),
        "key": _list(key),
        "key_of_old": _list(key, "old"),
        "newest": _newest(dataset),
        "assignments": assignments,
        "resolution": _resolution(dataset, assignments, against),
        "same_key": _same_key(key, "child" if child else "old", "won" if child else "new"),
    }


def _resolution(dataset: Dataset, assignments: sql.Composable, against: Against) -> sql.Composable:
    if against == "none":
        return sql.SQL("")
    is_own = sql.SQL("old.etl_run = excluded.etl_run and " if against == "own" else "")
    return sql.SQL("on conflict ({key}) do update set {assignments} where {is_own}{is_not_older}").format(
        key=_list(dataset.key), assignments=assignments, is_own=is_own, is_not_older=_is_not_older(dataset)
    )


def _newest(dataset: Dataset) -> sql.Composable:
    """Return the sort order of the versions of one key in a batch; the first version is kept."""
    if dataset.on_duplicate == "first":
        return sql.SQL("etl_batch, etl_place")
    later = sql.SQL("etl_batch desc, etl_place desc")
    if dataset.newest_by is None:
        return later
    return sql.SQL("{} desc nulls last, {}").format(sql.Identifier(dataset.newest_by), later)


def _is_not_older(dataset: Dataset) -> sql.Composable:
    """Return the condition that the version of this batch wins over the row in the table.

    The newer version wins (null is oldest), then the version that was loaded later. With `on_duplicate = "first"` the
    earlier of two versions of one run wins, because a replay loads records that come before loaded records.
    """
    newer = sql.SQL("({}) >= ({})").format(_list(LINEAGE, "excluded"), _list(LINEAGE, "old"))
    if dataset.newest_by is not None:
        newer = sql.SQL(
            "({new} > {old} or ({old} is null and {new} is not null) or ({new} is not distinct from {old} and {later}))"
        ).format(
            new=sql.Identifier("excluded", dataset.newest_by), old=sql.Identifier("old", dataset.newest_by), later=newer
        )
    if dataset.on_duplicate != "first":
        return newer
    _, *place = LINEAGE
    return sql.SQL(
        "(case when excluded.etl_run = old.etl_run then ({places}) <= ({old_places}) else {newer} end)"
    ).format(places=_list(place, "excluded"), old_places=_list(place, "old"), newer=newer)


def _list(names: Iterable[str], alias: str | None = None) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(alias, name) if alias else sql.Identifier(name) for name in names)


def _same_key(key: tuple[str, ...], left: str, right: str) -> sql.Composed:
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, name), sql.Identifier(right, name)) for name in key
    )
