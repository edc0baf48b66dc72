"""The DDL of the tables of a definition. Composes statements, and runs none."""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping

from psycopg import sql

from etl.datasets.definition import DIGEST, LINEAGE, Column, Dataset, Table
from etl.datasets.types import type_of

_NAME_LENGTH = 63
_SHORT_NAME_LENGTH = 50
_LINEAGE_COLUMNS = {
    name: sql.Identifier(name) + sql.SQL(" integer not null" if name == "etl_place" else " bigint not null")
    for name in LINEAGE
}
_DIGEST_COLUMN = {DIGEST: sql.Identifier(DIGEST) + sql.SQL(" bigint")}


def ddl(dataset: Dataset) -> list[sql.Composed]:
    """Return the statements that create the tables of a dataset; running them again changes nothing."""
    bare = [table for table in dataset.tables if table.each or not dataset.key]
    hashed = [statement for table in dataset.tables for statement in hash_partitions(table, table.identifier)]
    return [*creation(dataset), *hashed, *(replica_identity(table.identifier) for table in bare)]


def replica_identity(table: sql.Composable) -> sql.Composed:
    """Return the statement that lets a table without a primary key be published (logical replication)."""
    return sql.SQL("alter table {} replica identity full").format(table)


def creation(dataset: Dataset) -> list[sql.Composed]:
    """Return the statements that create the tables; the tables without a key have no replica identity yet."""
    statements = [
        sql.SQL("create schema if not exists {}").format(sql.Identifier(schema))
        for schema in sorted({table.schema for table in dataset.tables})
    ]
    names: set[str] = set()
    for table in dataset.tables:
        lineage = _lineage_columns(dataset, table)
        statements.append(_create_table(dataset, table, () if table.each else dataset.key, lineage))
        indexes = list(table.index) + ([dataset.key] if dataset.key and table.each else [])
        for columns in indexes:
            name = _index_name(table, columns, names)
            statements.append(
                sql.SQL("create index if not exists {} on {} ({})").format(
                    sql.Identifier(name), table.identifier, sql.SQL(", ").join(map(sql.Identifier, columns))
                )
            )
        statements.extend(_comments(table, lineage))
    return statements


def _lineage_columns(dataset: Dataset, table: Table) -> dict[str, sql.Composed]:
    columns = _LINEAGE_COLUMNS | (_DIGEST_COLUMN if table is dataset.digested_table else {})
    return columns | first_columns(dataset, table)


def first_columns(dataset: Dataset, table: Table) -> dict[str, sql.Composed]:
    """Return the columns that keep the first values of a table; they are empty while a row has only one version."""
    newest = table.column(dataset.newest_by) if dataset.newest_by else None
    types: dict[str, sql.SQL] = {}
    for column in table.columns:
        if column.keep_first:
            value, version, place = column.names_of_first
            types |= {value: sql_type(column.type)} | ({version: sql_type(newest.type)} if newest else {})
            types[place] = sql.SQL("bigint[]")
    return {name: sql.SQL("{} {}").format(sql.Identifier(name), type_) for name, type_ in types.items()}


def additions(dataset: Dataset, table: Table, existing: Collection[str]) -> list[sql.Composed]:
    """Return the statements that add the columns that a table does not have yet, with their checks.

    A column that the definition does not name any more stays in the table.
    """
    columns = {
        column.name: sql.SQL(" ").join(
            [_column(column), *(_constraint(table, column, *check) for check in _checks(column))]
        )
        for column in table.columns
    }
    return [
        sql.SQL("alter table {} add column {}").format(table.identifier, column)
        for name, column in (columns | _lineage_columns(dataset, table)).items()
        if name not in existing
    ]


def _constraint(table: Table, column: Column, word: str, check: sql.Composed) -> sql.Composed:
    name = _joined(table.name.split(".")[1], column.name, word)
    return sql.SQL("constraint {} check ({})").format(sql.Identifier(name), check)


def _create_table(
    dataset: Dataset, table: Table, key: tuple[str, ...], lineage: Mapping[str, sql.Composed]
) -> sql.Composed:
    lines: list[sql.Composable] = [_column(column) for column in table.columns]
    lines += lineage.values()
    if key:
        lines.append(sql.SQL("primary key ({})").format(sql.SQL(", ").join(map(sql.Identifier, key))))
    for column in table.columns:
        lines += [_constraint(table, column, *check) for check in _checks(column)]
    created = sql.SQL("create table if not exists {} (\n    {}\n)").format(
        table.identifier, sql.SQL(",\n    ").join(lines)
    )
    return created + partition_clause(dataset, table)


def divided_by(dataset: Dataset, table: Table) -> tuple[str, ...]:
    """Return the columns by which a table is divided."""
    if table.partition_hash is not None:
        return dataset.key
    return () if table.partition_by is None else (table.partition_by,)


def partition_clause(dataset: Dataset, table: Table) -> sql.Composable:
    """Return the end of the statement that makes a table: how it is divided."""
    columns = divided_by(dataset, table)
    if not columns:
        return sql.SQL("")
    way = sql.SQL(" partition by range ({})" if table.partition_hash is None else " partition by hash ({})")
    return way.format(listed(columns))


def hash_partitions(table: Table, parent: sql.Identifier) -> Iterator[sql.Composed]:
    """Yield the statements that make the partitions of a table that is divided by a hash, in the order of remainders.

    They become partitions of `parent`, by the names of those of the table.
    """
    for number in range(table.partition_hash or 0):
        yield sql.SQL(
            "create table if not exists {} partition of {} for values with (modulus {}, remainder {})"
        ).format(hash_partition_name(table, number), parent, sql.Literal(table.partition_hash), sql.Literal(number))


def hash_partition_name(table: Table, number: int) -> sql.Identifier:
    """Return the name of a partition of a table that is divided by a hash."""
    return sql.Identifier(table.schema, f"{short_name(table.name.split('.')[1])}_h{number}")


def short_name(name: str) -> str:
    """Return the name of a table, cut to 50 letters, for names that are made of it; a cut one ends with its digest."""
    if len(name) <= _SHORT_NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _SHORT_NAME_LENGTH - 9]}_{digest}"


def _column(column: Column) -> sql.Composed:
    default: sql.Composable = sql.SQL("")
    if column.default is not None:
        text = str(column.default).lower() if isinstance(column.default, bool) else str(column.default)
        default = sql.SQL(" default {}").format(sql.Literal(text))
    null = sql.SQL(" not null" if column.required else "")
    return sql.Composed([sql.Identifier(column.name), sql.SQL(" "), sql_type(column.type), default, null])


def limits_ddl(table: Table, name: sql.Identifier) -> sql.Composed:
    """Return the statement that creates a temporary table with the checks of a table of the definition."""
    lines = [
        sql.Identifier(column.name)
        + sql.SQL(" ")
        + sql_type(column.type)
        + sql.SQL(" not null" if column.required else "")
        for column in table.columns
    ]
    lines += [sql.SQL("check ({})").format(check) for column in table.columns for _, check in _checks(column)]
    return sql.SQL("create temporary table {} ({})").format(name, sql.SQL(", ").join(lines))


def _index_name(table: Table, columns: tuple[str, ...], used: set[str]) -> str:
    """Return the name of an index, and add it to the used ones: (b_c) and (b, c) would have the same name."""
    name = _joined(table.name.split(".")[1], *columns, "idx")
    if f"{table.name.split('.')[0]}.{name}" in used:
        digest = hashlib.sha256("\n".join((table.name, *columns)).encode()).hexdigest()[:8]
        name = _joined(table.name.split(".")[1], *columns, digest, "idx")
    used.add(f"{table.name.split('.')[0]}.{name}")
    return name


def _joined(*parts: str) -> str:
    """Return the name of a constraint or an index; a name that is too long is cut and ends with its digest."""
    name = "_".join(parts)
    if len(name) <= _NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _NAME_LENGTH - 9]}_{digest}"


def quoted(columns: Iterable[str]) -> str:
    """Return names of columns as a statement quotes them."""
    return listed(columns).as_string(None)


def listed(names: Iterable[str], alias: str | None = None) -> sql.Composed:
    """Return names of columns as a list, with or without the alias of their table."""
    return sql.SQL(", ").join(sql.Identifier(alias, name) if alias else sql.Identifier(name) for name in names)


def same_key(key: Iterable[str], left: str, right: str) -> sql.Composed:
    """Return the condition that the rows of two aliases have the same key."""
    return sql.SQL(" and ").join(
        sql.SQL("{} = {}").format(sql.Identifier(left, name), sql.Identifier(right, name)) for name in key
    )


def sql_type(name: str) -> sql.SQL:
    """Return the type of a definition as a statement spells it."""
    return sql.SQL(type_of(name).sql)


def _checks(column: Column) -> Iterator[tuple[str, sql.Composed]]:
    identifier = sql.Identifier(column.name)
    for word, operator in (("min", sql.SQL(">=")), ("above", sql.SQL(">")), ("max", sql.SQL("<="))):
        bound = getattr(column, word)
        if bound is not None:
            limit = sql.Literal(column.column_type.bound(str(bound)))
            yield word, sql.SQL("{} {} {}").format(identifier, operator, limit)
    if column.max_length is not None:
        yield (
            "max_length",
            sql.SQL("char_length({}) <= {}").format(identifier, sql.Literal(column.max_length)),
        )
    if column.one_of:
        values = sql.SQL(", ").join(map(sql.Literal, column.one_of))
        yield "one_of", sql.SQL("{} in ({})").format(identifier, values)


def _comments(table: Table, lineage: Collection[str]) -> Iterator[sql.Composed]:
    if table.comment:
        yield sql.SQL("comment on table {} is {}").format(table.identifier, sql.Literal(table.comment))
    for name, text in _texts(table, lineage).items():
        yield sql.SQL("comment on column {} is {}").format(
            sql.Identifier(*table.name.split("."), name), sql.Literal(text)
        )


def columns_in_database(dataset: Dataset, table: Table) -> dict[str, tuple[str, str | None]]:
    """Return the type and the comment of each column that the statements make, by its name."""
    lineage = _lineage_columns(dataset, table)
    texts = _texts(table, lineage)
    types = {column.name: sql_type(column.type).as_string(None) for column in table.columns}
    types |= {
        name: text.as_string(None).removeprefix(sql.Identifier(name).as_string(None)).removesuffix(" not null").strip()
        for name, text in lineage.items()
    }
    return {name: (type_, texts.get(name)) for name, type_ in types.items()}


def _texts(table: Table, lineage: Collection[str]) -> dict[str, str]:
    """Return the comments of the columns that have one."""
    texts_of_lineage = {
        "etl_run": "run that loaded this version (etl.runs.number)",
        "etl_batch": "byte at which the batch begins in the decompressed source",
        "etl_place": "place of the record in its batch, from 1",
        DIGEST: "digest of the record and of the definition: a merge leaves a record with the same digest as it is",
    }
    texts = {column.name: column.comment for column in table.columns if column.comment}
    for column in table.columns:
        value, version, place = column.names_of_first
        texts_of_lineage[value] = (
            f"first value of {column.name} in the order of versions; null: {column.name} is the first"
        )
        texts_of_lineage[version] = f"version that {value} comes from, as the column that orders versions names it"
        texts_of_lineage[place] = f"etl_run, etl_batch and etl_place of the version that {value} comes from"
    return texts | {name: texts_of_lineage[name] for name in lineage}
