"""A dataset definition as a value: read from TOML, validated, and turned into its DDL.

The grammar is the contract C5 (`docs/reference/dataset-definitions.md`). Knows no database connection: it
returns statements, others run them.
"""

import difflib
import hashlib
import re
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, get_args

import msgspec
from psycopg import sql

from etl.errors import DefinitionError
from etl.settings import Mode, shipped

Type = Literal["text", "smallint", "integer", "bigint", "numeric", "double", "boolean", "date", "timestamptz", "jsonb"]

TYPES: tuple[str, ...] = get_args(Type)
NUMBERS = frozenset({"smallint", "integer", "bigint", "numeric", "double"})
LINEAGE = ("etl_run", "etl_batch", "etl_place")

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
_NAME_LENGTH = 63
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})
_SQL_TYPES: dict[str, sql.SQL] = {
    **{name: sql.SQL(name) for name in get_args(Type)},
    "double": sql.SQL("double precision"),
}


class Column(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One column: where its value stands in the record (or in the element of `each`), its type and its checks."""

    type: Type
    name: str = ""
    path: str = ""
    value: str | None = None
    required: bool = False
    null_if: tuple[str | int | float, ...] = ()
    min: int | float | str | None = None
    above: int | float | str | None = None
    max: int | float | str | None = None
    max_length: int | None = None
    one_of: tuple[str, ...] = ()
    misfits_to: str | None = None
    comment: str | None = None


class Table(msgspec.Struct, frozen=True, kw_only=True):
    """One table of a dataset; `each` is the path of the array whose elements become its rows, or empty."""

    name: str
    columns: tuple[Column, ...]
    each: str = ""
    index: tuple[tuple[str, ...], ...] = ()
    comment: str | None = None

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name, quoted."""
        return sql.Identifier(*self.name.split("."))

    def column(self, name: str) -> Column | None:
        """Return the column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)


class Dataset(msgspec.Struct, frozen=True, kw_only=True):
    """A named description of records and of the tables that they become; the first table is the record's own."""

    name: str
    records: str
    mode: Mode
    key: tuple[str, ...]
    newest_by: str | None
    tables: tuple[Table, ...]
    path: str

    @property
    def hash(self) -> str:
        """A digest of all that decides which rows a record becomes: no comment, no index, no order of columns."""
        tables = [
            (table.name, table.each, [msgspec.structs.replace(column, comment=None) for column in _by_name(table)])
            for table in self.tables
        ]
        content = msgspec.json.encode((self.records, self.key, self.newest_by, tables), order="deterministic")
        return hashlib.sha256(content).hexdigest()[:16]


def _by_name(table: Table) -> list[Column]:
    return sorted(table.columns, key=lambda column: column.name)


class _TableDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    columns: dict[str, str | dict[str, Any]]
    each: str = ""
    index: list[list[str]] = []
    comment: str | None = None


class _Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: str
    table: list[dict[str, Any]]
    records: str = "item"
    mode: Mode = "append"
    key: list[str] = []
    newest_by: str | None = None
    comment: str | None = None


def folders(config_dir: Path) -> tuple[Path, Path]:
    """Return where definitions are looked for: the user's folder first, then the shipped one."""
    return config_dir / "datasets", shipped("config") / "datasets"


def names(config_dir: Path) -> list[str]:
    """Return the names of all datasets that are defined, sorted."""
    return sorted({path.stem for folder in folders(config_dir) for path in folder.glob("*.toml")})


def find(name: str, config_dir: Path) -> Dataset:
    """Return the definition called `name`.

    Raises DefinitionError when there is none or when it is wrong.
    """
    known = names(config_dir)
    for folder in folders(config_dir):
        path = folder / f"{name}.toml"
        if name in known and path.is_file():
            return read(path)
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known datasets: {', '.join(known)}"
    raise DefinitionError(f"no dataset is called {name!r}", hint=hint)


def readable(config_dir: Path) -> list[Dataset]:
    """Return all definitions that are right; a wrong one is told when it is used."""
    found = []
    for name in names(config_dir):
        with suppress(DefinitionError):
            found.append(find(name, config_dir))
    return found


def read(path: Path) -> Dataset:
    """Read and validate one definition.

    Raises DefinitionError; its message names the file and, where there is one, the table and the column.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
        document = msgspec.convert(content, _Document)
        tables = tuple(_table(raw, f"{path}: table {number}") for number, raw in enumerate(document.table, 1))
    except OSError as error:
        raise DefinitionError(f"cannot read {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise DefinitionError(f"{path}: {error}") from error
    dataset = Dataset(
        name=document.name,
        records=document.records,
        mode=document.mode,
        key=tuple(document.key),
        newest_by=document.newest_by,
        tables=tables,
        path=str(path),
    )
    for problem in _problems(dataset, path):
        raise DefinitionError(f"{path}: {problem}")
    return dataset


def _table(raw: dict[str, Any], where: str) -> Table:
    try:
        document = msgspec.convert(raw, _TableDocument)
    except msgspec.ValidationError as error:
        raise DefinitionError(f"{where}: {error}") from error
    where = f"{where.rsplit(':', 1)[0]}: table {document.name}"
    columns = tuple(_column(name, options, where) for name, options in document.columns.items())
    return Table(
        name=document.name,
        columns=columns,
        each=document.each,
        index=tuple(tuple(names) for names in document.index),
        comment=document.comment,
    )


def _column(name: str, options: str | dict[str, Any], where: str) -> Column:
    written = {"type": options} if isinstance(options, str) else dict(options)
    if "name" in written:
        raise DefinitionError(f"{where}, column {name}: unknown option `name`")
    try:
        column = msgspec.convert(written, Column)
    except msgspec.ValidationError as error:
        raise DefinitionError(f"{where}, column {name}: {error}") from error
    return msgspec.structs.replace(column, name=name, path=column.path or name)


def _problems(dataset: Dataset, path: Path) -> Iterator[str]:
    if dataset.name != path.stem:
        yield f"expected name = {path.stem!r} as the file is called, got {dataset.name!r}"
    if not _NAME.fullmatch(dataset.name):
        yield f"expected a name of letters, digits and _, at most {_NAME_LENGTH} long, got {dataset.name!r}"
    if not dataset.tables:
        yield "expected at least one [[table]]"
        return
    if not all(dataset.records.split(".")):
        yield f"records: expected a path such as item or shipments.item, got {dataset.records!r}"
    for number, table in enumerate(dataset.tables):
        if not re.fullmatch(rf"{_NAME.pattern}\.{_NAME.pattern}", table.name):
            yield f"table {number + 1}: expected a name such as logistics.shipments, got {table.name!r}"
        if bool(table.each) != bool(number):
            yield f"table {table.name}: " + ("only later tables have `each`" if table.each else "expected `each`")
        yield from (f"table {table.name}{problem}" for problem in _table_problems(table))
    if len({table.name for table in dataset.tables}) != len(dataset.tables):
        yield "two tables have one name"
    yield from _key_problems(dataset)


def _table_problems(table: Table) -> Iterator[str]:
    if table.each and not all(table.each.split(".")):
        yield f": each expects a path such as items, got {table.each!r}"
    if not table.columns:
        yield ": expected at least one column"
    for column in table.columns:
        yield from (f", column {column.name}: {misuse}" for misuse in _misuses(column, table))
    for index in table.index:
        yield from (f": index names {name!r}, which is not a column" for name in index if not table.column(name))
        if not index or len(set(index)) != len(index):
            yield f": index expects lists of different columns, got {list(index)}"
    targets = [column.misfits_to for column in table.columns if column.misfits_to]
    if len(targets) != len(set(targets)):
        yield ": two columns send their misfits to one column"


def _key_problems(dataset: Dataset) -> Iterator[str]:
    first, *children = dataset.tables
    if len(set(dataset.key)) != len(dataset.key):
        yield f"key names a column twice: {', '.join(dataset.key)}"
    if dataset.mode == "merge" and not dataset.key:
        yield "mode merge expects `key`"
    for name in dataset.key:
        column = first.column(name)
        if column is None:
            yield f"key names {name!r}, which is not a column of {first.name}"
        elif not column.required:
            yield f"table {first.name}, column {name}: a key column expects required = true"
        elif column.type == "jsonb":
            yield f"table {first.name}, column {name}: a key column cannot be jsonb"
        for child in children:
            held = child.column(name)
            if column is not None and (held is None or held.type != column.type):
                yield f"table {child.name}: expected the key column {name} of type {column.type}"
    if dataset.newest_by:
        newest = first.column(dataset.newest_by)
        if newest is None or newest.type == "jsonb":
            yield f"newest_by names {dataset.newest_by!r}, which is not a comparable column of {first.name}"
        if not dataset.key:
            yield "newest_by expects `key`"


def _misuses(column: Column, table: Table) -> Iterator[str]:
    if not _NAME.fullmatch(column.name):
        yield f"expected a name of letters, digits and _, at most {_NAME_LENGTH} long"
    if column.name in LINEAGE:
        yield "the name is taken by the lineage of each row"
    if column.name in _SYSTEM_COLUMNS:
        yield "the name is taken by PostgreSQL"
    if column.value is not None and column.path != column.name:
        yield "path and value exclude each other"
    names = column.path.split(".")
    if names[0] in {"#", "^"} and not table.each:
        yield f"path {column.path!r} has a meaning only in a table with `each`"
    if (not all(names) and column.path != ".") or names == ["^"] or "^" in names[1:]:
        yield f"expected a path such as origin.city, got {column.path!r}"
    yield from _misused_bounds(column)
    if column.type != "text" and (column.max_length is not None or column.one_of):
        yield f"max_length and one_of expect type text, not {column.type}"
    if column.max_length is not None and column.max_length < 1:
        yield f"max_length expects 1 or more, got {column.max_length}"
    if column.misfits_to is not None:
        target = table.column(column.misfits_to)
        if target is None or target.type != "text" or target is column:
            yield f"misfits_to names {column.misfits_to!r}, which is not another text column of the table"
        if column.required:
            yield "a required column cannot send its misfits elsewhere: it would be null"


def _misused_bounds(column: Column) -> Iterator[str]:
    for option in ("min", "above", "max"):
        bound = getattr(column, option)
        if bound is not None and column.type not in NUMBERS:
            yield f"{option} expects a number type, not {column.type}"
        elif bound is not None and not _NUMBER.fullmatch(str(bound)):
            yield f"{option} expects a plain number, got {bound!r}"


def ddl(dataset: Dataset) -> list[sql.Composed]:
    """Return the statements that make the dataset's tables; running them again changes nothing."""
    first = dataset.tables[0]
    statements = [
        sql.SQL("create schema if not exists {}").format(sql.Identifier(schema))
        for schema in sorted({table.name.split(".")[0] for table in dataset.tables})
    ]
    for table in dataset.tables:
        statements.append(_create_table(table, dataset.key if table is first else ()))
        indexes = list(table.index) + ([dataset.key] if dataset.key and table is not first else [])
        for columns in indexes:
            name = _joined(table.name.split(".")[1], *columns, "idx")
            statements.append(
                sql.SQL("create index if not exists {} on {} ({})").format(
                    sql.Identifier(name), table.identifier, sql.SQL(", ").join(map(sql.Identifier, columns))
                )
            )
        statements.extend(_comments(table))
    return statements


def _create_table(table: Table, key: tuple[str, ...]) -> sql.Composed:
    lines: list[sql.Composable] = []
    for column in table.columns:
        null = sql.SQL(" not null") if column.required else sql.SQL("")
        lines.append(sql.Identifier(column.name) + sql.SQL(" ") + sql_type(column.type) + null)
    lines += [
        sql.Identifier("etl_run") + sql.SQL(" bigint not null"),
        sql.Identifier("etl_batch") + sql.SQL(" bigint not null"),
        sql.Identifier("etl_place") + sql.SQL(" integer not null"),
    ]
    if key:
        lines.append(sql.SQL("primary key ({})").format(sql.SQL(", ").join(map(sql.Identifier, key))))
    for column in table.columns:
        for word, check in _checks(column):
            name = _joined(table.name.split(".")[1], column.name, word)
            lines.append(sql.SQL("constraint {} check ({})").format(sql.Identifier(name), check))
    return sql.SQL("create table if not exists {} (\n    {}\n)").format(
        table.identifier, sql.SQL(",\n    ").join(lines)
    )


def limits_ddl(table: Table, name: sql.Identifier) -> sql.Composed:
    """Return the statement that makes a temporary table with the limits that a table of this definition checks."""
    lines = [
        sql.Identifier(column.name)
        + sql.SQL(" ")
        + sql_type(column.type)
        + sql.SQL(" not null" if column.required else "")
        for column in table.columns
    ]
    lines += [sql.SQL("check ({})").format(check) for column in table.columns for _, check in _checks(column)]
    return sql.SQL("create temporary table {} ({})").format(name, sql.SQL(", ").join(lines))


def _joined(*parts: str) -> str:
    """Return the name of a constraint or an index; one that is too long is cut, and stays different from the others."""
    name = "_".join(parts)
    if len(name) <= _NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: _NAME_LENGTH - 9]}_{digest}"


def sql_type(name: str) -> sql.SQL:
    """Return PostgreSQL's spelling of a type of the definition."""
    return _SQL_TYPES[name]


def _checks(column: Column) -> Iterator[tuple[str, sql.Composed]]:
    identifier = sql.Identifier(column.name)
    for word, operator in (("min", sql.SQL(">=")), ("above", sql.SQL(">")), ("max", sql.SQL("<="))):
        bound = getattr(column, word)
        if bound is not None:
            yield word, sql.SQL("{} {} {}").format(identifier, operator, sql.Literal(Decimal(str(bound))))
    if column.max_length is not None:
        yield (
            "max_length",
            sql.SQL("char_length({}) <= {}").format(identifier, sql.Literal(column.max_length)),
        )
    if column.one_of:
        values = sql.SQL(", ").join(map(sql.Literal, column.one_of))
        yield "one_of", sql.SQL("{} in ({})").format(identifier, values)


def _comments(table: Table) -> Iterator[sql.Composed]:
    if table.comment:
        yield sql.SQL("comment on table {} is {}").format(table.identifier, sql.Literal(table.comment))
    lineage = {
        "etl_run": "run that loaded this version (etl.runs.number)",
        "etl_batch": "byte at which the batch begins in the decompressed source",
        "etl_place": "place of the record in its batch, from 1",
    }
    texts = {column.name: column.comment for column in table.columns if column.comment} | lineage
    for name, text in texts.items():
        yield sql.SQL("comment on column {} is {}").format(
            sql.Identifier(*table.name.split("."), name), sql.Literal(text)
        )
