"""The statements that write rows into the facts: append and merge. Runs nothing.

A source of rows is a table or a parenthesized select with the columns and lineage of a fact table; there is one source
for each table of the dataset. `won` are the records whose version won, by batch and place.
"""

from collections.abc import Callable, Sequence
from typing import Literal

from psycopg import sql

from etl import queries
from etl.datasets import LINEAGE, Column, Dataset, Table, listed, same_key
from etl.datasets.types import ServerType
from etl.quick_dataclasses import dataclass

_SQL = queries.load("merging")

WON = sql.Identifier("pg_temp", "etl_won")

Sources = Sequence[sql.Composable]

Against = Literal["all", "own", "none"]
"""The rows that a version is compared with: all rows of its key, those of its own run, or none. With "none" the server
refuses a key that exists; being ready for a conflict costs a third more.
"""


@dataclass(frozen=True, kw_only=True)
class Statement:
    """A statement that writes rows of the dataset's table of this number, and what it must have done.

    After it, the number of rows that it wrote equals the result of the query `expected`, and the query `left` counts
    no row. Where one of them is None, nothing is asked.
    """

    text: sql.Composed
    table: int
    expected: sql.Composed | None = None
    left: sql.Composed | None = None


Statements = Callable[[Sources, sql.Composable], list[Statement]]
"""Returns the statements that write the rows, given a source for each table and the records that won."""


def append(dataset: Dataset, targets: Sources, sources: Sources) -> list[Statement]:
    """Return the statements that insert all rows of the sources."""
    return [
        Statement(
            text=_SQL["insert_all"].format(table=target, columns=columns(table), source=source),
            table=number,
            expected=count_all(source),
        )
        for number, (table, target, source) in enumerate(zip(dataset.tables, targets, sources, strict=True))
    ]


def count_all(source: sql.Composable) -> sql.Composed:
    """Return the query that counts the rows of a source or a table."""
    return _SQL["count_all"].format(source=source)


def append_newest(dataset: Dataset, sources: Sources, won: sql.Composable) -> list[Statement]:
    """Return the statements that insert the newest version of each key and replace older versions of the same run.

    The server refuses a key that another run loaded.
    """
    insert_others = []
    for number, (table, rows) in enumerate(zip(dataset.tables, sources, strict=True)):
        if not table.each:
            names = placeholders(dataset, table, rows, won)
            text, left = _SQL["insert_unbeaten"].format(**names), _SQL["count_unbeaten"].format(**names)
            insert_others.append(Statement(text=text, table=number, left=left))
    return [*merge(dataset, sources, won, against="own"), *insert_others]


def merge(
    dataset: Dataset,
    sources: Sources,
    won: sql.Composable,
    *,
    against: Against = "all",
    is_batch: bool = False,
) -> list[Statement]:
    """Return the statements that keep the newest version of each key, and its child rows.

    `is_batch`: the sources are small beside the tables, however large these are.
    """
    has_children = any(table.each for table in dataset.tables)
    statements = []
    for number, (table, rows) in enumerate(zip(dataset.tables, sources, strict=True)):
        if table.each:
            names = placeholders(dataset, table, rows, won, child=True)
            winners = _looked_up(dataset, won) if is_batch else won
            statements += [delete_children(number, names | {"winners": winners}), insert_children(number, names)]
            continue
        names = placeholders(dataset, table, rows, won, against=against)
        text = _SQL["merge_records_returning" if has_children else "merge_records"].format(**names)
        statements.append(Statement(text=text, table=number, expected=count_writes(names)))
    return statements


def _looked_up(dataset: Dataset, won: sql.Composable) -> sql.Composable:
    """Return the keys of the records that won so that the server looks up each; possible arrays stay as they are."""
    columns = [column for table in dataset.tables[:1] for column in table.columns if column.name in dataset.key]
    if any(isinstance(column.column_type, ServerType) for column in columns):
        return won
    arrays = sql.SQL(", ").join(
        sql.SQL("array_agg({}) as {}").format(sql.Identifier("winner", name), sql.Identifier(name))
        for name in dataset.key
    )
    return _SQL["winners"].format(won=won, arrays=arrays, names=listed(dataset.key, "keys"), key=listed(dataset.key))


def insert_new(dataset: Dataset, sources: Sources) -> list[Statement]:
    """Return the statements that insert all rows of the sources where no row of their keys is; a key must come once."""
    statements = []
    for number, (table, source) in enumerate(zip(dataset.tables, sources, strict=True)):
        names: Placeholders = {"table": table.identifier, "columns": columns(table), "source": source}
        if table.each and table.partition_by is None:
            text = _SQL["insert_all"].format(**names)
        else:
            order = (table.partition_by,) if table.each and table.partition_by else key_by_partition(dataset, table)
            text = _SQL["insert_new"].format(**names, order=listed(order))
        statements.append(Statement(text=text, table=number, expected=count_all(source)))
    return statements


def keep_firsts(dataset: Dataset, sources: Sources) -> list[Statement]:
    """Return the statements that keep first values of versions that lost. They come after the merge of the sources."""
    statements = []
    for number, (table, rows) in enumerate(zip(dataset.tables, sources, strict=True)):
        for column in table.columns if dataset.key else ():
            if column.keep_first:
                names = _names_of_first(dataset, column)
                names |= {"table": table.identifier, "source": rows, "same_key": same_key(dataset.key, "old", "lost")}
                statements.append(Statement(text=_SQL["keep_first"].format(**names), table=number))
    return statements


def _names_of_first(dataset: Dataset, column: Column) -> "Placeholders":
    first, version, place = map(sql.Identifier, column.names_of_first)
    names: Placeholders = {
        "column": sql.Identifier(column.name),
        "first": first,
        "version": version,
        "place": place,
        "key": listed(dataset.key),
        "listed": listed((*dataset.key, column.name)),
        "set_version": sql.SQL(""),
        "oldest": sql.SQL(""),
    }
    is_older = _SQL["is_older_place"].format(**names)
    if dataset.newest_by is not None:
        newest = sql.Identifier(dataset.newest_by)
        is_older = _SQL["is_older"].format(**names, newest=newest, is_older_place=is_older)
        names |= {
            "newest": newest,
            "listed": listed(dict.fromkeys((*dataset.key, column.name, dataset.newest_by))),
            "set_version": sql.SQL("{} = lost.{},").format(version, newest),
            "oldest": sql.SQL("{} nulls first,").format(newest),
        }
    return names | {"is_older": is_older}


def _assignments_of_first(dataset: Dataset, column: Column) -> sql.Composed:
    names = _names_of_first(dataset, column)
    names["version"] = _SQL["assignment_of_version"].format(**names) if dataset.newest_by else sql.SQL("")
    return _SQL["assignments_of_first"].format(**names)


Placeholders = dict[str, sql.Composable]


def delete_children(number: int, names: Placeholders) -> Statement:
    """Return the statement that deletes the rows of a child table that belong to the records that won.

    `winners` are these records, or their keys.
    """
    return Statement(text=_SQL["delete_children"].format(**names), table=number, left=count_children(names))


def count_children(names: Placeholders) -> sql.Composed:
    """Return the query that counts the child rows of the records that won."""
    return _SQL["count_children"].format(**names)


def insert_children(number: int, names: Placeholders) -> Statement:
    """Return the statement that inserts the child rows of the records that won."""
    return Statement(
        text=_SQL["insert_children"].format(**names),
        table=number,
        expected=_SQL["count_new_children"].format(**names),
    )


def count_writes(names: Placeholders) -> sql.Composed:
    """Return the query that counts the versions that a statement must have written: all that no other version beat."""
    return _SQL["count_writes"].format(**names)


def count_replaced(dataset: Dataset, number: int, source: sql.Composable) -> sql.Composed:
    """Return the query that counts, by run, the older versions that the rows of several runs write over."""
    names = placeholders(dataset, dataset.tables[number], source, WON)
    newest = sql.SQL("null::integer") if dataset.newest_by is None else sql.Identifier(dataset.newest_by)
    names |= {"newest_value": newest, "key_of_new": listed(dataset.key, "new")}
    return _SQL["count_replaced"].format(**names)


def count_duplicates(dataset: Dataset, number: int, source: sql.Composable) -> sql.Composed:
    """Return the query that counts, by run, the records with the key of another one of their run."""
    return _SQL["count_duplicates"].format(**placeholders(dataset, dataset.tables[number], source, WON))


def make_counters() -> sql.SQL:
    """Return the statement that makes the counters of a merge, and begins to count."""
    return _SQL["make_counters"]


def read_counters() -> sql.SQL:
    """Return the query of the counters: the versions that lost, and those with the key of another one of their run."""
    return _SQL["read_counters"]


def make_won(dataset: Dataset) -> list[sql.Composed]:
    """Return the statements that make the table of the records that won, once per connection."""
    placeholders = {"won": WON, "table": dataset.tables[0].identifier, "key": listed(dataset.key)}
    return [_SQL["make_won"].format(**placeholders), _SQL["index_won"].format(**placeholders)]


def columns(table: Table, alias: str | None = None, *, lineage: bool = True) -> sql.Composed:
    """Return the column names of a table as a list, with or without lineage."""
    names = tuple(column.name for column in table.columns)
    return listed(names + (table.lineage if lineage else ()), alias)


def placeholders(
    dataset: Dataset,
    table: Table,
    source: sql.Composable,
    won: sql.Composable,
    *,
    child: bool = False,
    against: Against = "all",
) -> Placeholders:
    """Return the names and expressions that the statements about a table and its source of rows use."""
    key = key_by_partition(dataset, table)
    names = (*(column.name for column in table.columns), *table.lineage)
    assigned = [
        sql.SQL("{name} = excluded.{name}").format(name=sql.Identifier(name)) for name in names if name not in key
    ]
    assigned += [_assignments_of_first(dataset, column) for column in table.columns if column.keep_first]
    assignments = sql.SQL(", ").join(assigned)
    return {
        "table": table.identifier,
        "source": source,
        "won": won,
        "won_table": WON,
        "columns": columns(table),
        "columns_of_child": columns(table, "child"),
        "order_of_child": _order_of_child(table),
        "data": _compared(table, key),
        "data_of_old": _compared(table, key, "old"),
        "data_of_excluded": _compared(table, key, "excluded"),
        "key": listed(key),
        "key_of_old": listed(key, "old"),
        "newest": _newest(dataset),
        "assignments": assignments,
        "condition": _condition(dataset, against),
        "resolution": _resolution(dataset, assignments, against),
        "lineage_of_old": listed(LINEAGE, "old"),
        "lineage_of_excluded": listed(LINEAGE, "excluded"),
        "is_key_of_excluded": same_key(key, "old", "excluded"),
        "same_key": same_key(key, "child" if child else "old", "won" if child else "new"),
    }


def key_by_partition(dataset: Dataset, table: Table) -> tuple[str, ...]:
    """Return the columns of the key, first the column by which the table is divided.

    Rows that are written in this order have their partition together: each change of the partition costs the server.
    """
    return tuple(sorted(dataset.key, key=lambda name: name != table.partition_by))


def _order_of_child(table: Table) -> sql.Composable:
    if table.partition_by is None:
        return sql.SQL("")
    return sql.SQL("order by {}").format(sql.Identifier("child", table.partition_by))


def _compared(table: Table, key: tuple[str, ...], alias: str | None = None) -> sql.Composed:
    """Return the columns of a table in the form in which two rows are compared: types of the server as texts.

    Such a type may have no equality, or one that overlooks differences: two boxes of the same area are equal.
    """
    compared = []
    for column in table.columns:
        name: sql.Composable = sql.Identifier(alias, column.name) if alias else sql.Identifier(column.name)
        if column.name not in key and isinstance(column.column_type, ServerType):
            name = sql.SQL('{}::text collate "C"').format(name)
        compared.append(name)
    return sql.SQL(", ").join(compared)


def _resolution(dataset: Dataset, assignments: sql.Composable, against: Against) -> sql.Composable:
    if against == "none":
        return sql.SQL("")
    condition = _condition(dataset, against)
    if against == "all":
        condition = _SQL["counted_condition"].format(condition=condition)
    return sql.SQL("on conflict ({key}) do update set {assignments} where {condition}").format(
        key=listed(dataset.key), assignments=assignments, condition=condition
    )


def _condition(dataset: Dataset, against: Against) -> sql.Composable:
    """Return the condition that a version of the source replaces the row of its key."""
    if against == "none":
        return sql.SQL("true")
    is_own = sql.SQL("old.etl_run = excluded.etl_run and " if against == "own" else "")
    return is_own + is_not_older(dataset)


def _newest(dataset: Dataset) -> sql.Composable:
    """Return the sort order of the versions of one key in the source rows: the version that sorts first is kept."""
    if dataset.on_duplicate == "first":
        return sql.SQL("etl_batch, etl_place")
    later = sql.SQL("etl_run desc, etl_batch desc, etl_place desc")
    if dataset.newest_by is None:
        return later
    return sql.SQL("{} desc nulls last, {}").format(sql.Identifier(dataset.newest_by), later)


def is_not_older(dataset: Dataset) -> sql.Composable:
    """Return the condition that the version of this batch wins over the row in the table.

    The newer version wins (null is oldest), then the version that was loaded later. With `on_duplicate = "first"` the
    earlier of two versions of one run wins, because a replay loads records that come before loaded records.
    """
    newer = sql.SQL("({}) >= ({})").format(listed(LINEAGE, "excluded"), listed(LINEAGE, "old"))
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
    ).format(places=listed(place, "excluded"), old_places=listed(place, "old"), newer=newer)
