"""The statements that bring rows from a source of rows into the facts: append, merge, replace. Runs nothing.

A source of rows is a table or a parenthesized select with the columns and lineage of a fact table, one for each table
of the dataset. `won` are the records whose version won, by batch and place.
"""

from collections.abc import Callable, Sequence

from psycopg import sql

from etl import queries
from etl.datasets import LINEAGE, Dataset, Table

_SQL = queries.load("merging")

WON = sql.Identifier("pg_temp", "etl_won")

Sources = Sequence[sql.Composable]

Applying = Callable[[Sources, sql.Composable], list[sql.Composed]]
"""(a source of rows for each table, the records that won) -> the statements that bring the rows in."""


def append(dataset: Dataset, targets: Sources, sources: Sources) -> list[sql.Composed]:
    """Return the statements that insert all rows of the sources."""
    return [
        _SQL["insert_all"].format(table=target, columns=columns(table), source=source)
        for table, target, source in zip(dataset.tables, targets, sources, strict=True)
    ]


def merge(dataset: Dataset, sources: Sources, won: sql.Composable, *, are_new: bool = False) -> list[sql.Composed]:
    """Return the statements that keep the newest version of each key, and its child rows.

    `are_new`: the server may refuse a key that is there already. To be ready for it costs a third more.
    """
    (first, source), *children = zip(dataset.tables, sources, strict=True)
    if not any(table.each for table in dataset.tables):
        pairs = zip(dataset.tables, sources, strict=True)
        return [
            _SQL["merge_records"].format(**_words(dataset, table, rows, won, are_new=are_new)) for table, rows in pairs
        ]
    words = _words(dataset, first, source, won, are_new=are_new)
    statements = [_SQL["merge_records_returning"].format(**words)]
    for child, rows in children:
        words = _words(dataset, child, rows, won, child=True)
        statements += [_SQL[name].format(**words) for name in ("delete_children", "insert_children")]
    return statements


def replace(dataset: Dataset, sources: Sources) -> list[sql.Composed]:
    """Return the statements after which the facts hold the sources' rows and no others, rewriting what differs."""
    if not dataset.key:
        deletes = [_SQL["delete_all"].format(table=table.identifier) for table in dataset.tables]
        return deletes + append(dataset, [table.identifier for table in dataset.tables], sources)
    statements = [
        _SQL[name].format(**_words(dataset, table, rows, WON))
        for table, rows in zip(dataset.tables, sources, strict=True)
        for name in ("delete_absent", "replace_records")
        if not table.each
    ]
    children = [pair for pair in zip(dataset.tables, sources, strict=True) if pair[0].each]
    if children:
        statements.append(_SQL["keep_newest"].format(**_words(dataset, dataset.tables[0], sources[0], WON)))
    for child, rows in children:
        words = _words(dataset, child, rows, WON, child=True)
        statements += [_SQL[name].format(**words) for name in ("delete_losers", "replace_children")]
    return statements


def make_won(dataset: Dataset) -> list[sql.Composed]:
    """Return the statements that make the table of the records that won, once per connection."""
    words = {"won": WON, "table": dataset.tables[0].identifier, "key": _list(dataset.key)}
    return [_SQL["make_won"].format(**words), _SQL["index_won"].format(**words)]


def columns(table: Table, alias: str | None = None, *, lineage: bool = True) -> sql.Composed:
    """Return the columns of a table as a list, with or without lineage."""
    names = tuple(column.name for column in table.columns)
    return _list(names + (LINEAGE if lineage else ()), alias)


def _words(
    dataset: Dataset,
    table: Table,
    source: sql.Composable,
    won: sql.Composable,
    *,
    child: bool = False,
    are_new: bool = False,
) -> dict[str, sql.Composable]:
    key = dataset.key
    newest = [sql.SQL("{} desc nulls last, ").format(sql.Identifier(dataset.newest_by))] if dataset.newest_by else []
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
        "newest": sql.Composed(newest),
        "assignments": assignments,
        "resolution": sql.SQL("") if are_new else _or_update(key, assignments, _is_not_older(dataset)),
        "same_key": _same_key(key, "child" if child else "old", "won" if child else "new"),
    }


def _or_update(key: tuple[str, ...], assignments: sql.Composable, is_not_older: sql.Composable) -> sql.Composed:
    return sql.SQL("on conflict ({key}) do update set {assignments} where {is_not_older}").format(
        key=_list(key), assignments=assignments, is_not_older=is_not_older
    )


def _is_not_older(dataset: Dataset) -> sql.Composed:
    """Compare two versions of a record: the newer wins (null is oldest), then the later in order of loading."""
    later = sql.SQL("({}) >= ({})").format(_list(LINEAGE, "excluded"), _list(LINEAGE, "old"))
    if dataset.newest_by is None:
        return later
    versions = {
        "new": sql.Identifier("excluded", dataset.newest_by),
        "old": sql.Identifier("old", dataset.newest_by),
    }
    return sql.SQL(
        "({new} > {old} or ({old} is null and {new} is not null) or ({new} is not distinct from {old} and {later}))"
    ).format(**versions, later=later)


def _list(names: tuple[str, ...], alias: str | None = None) -> sql.Composed:
    return sql.SQL(", ").join(sql.Identifier(alias, name) if alias else sql.Identifier(name) for name in names)


def _same_key(key: tuple[str, ...], left: str, right: str) -> sql.Composed:
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, name), sql.Identifier(right, name)) for name in key
    )
