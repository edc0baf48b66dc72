"""The problems of a definition: each in one sentence, with table and column."""

import difflib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from etl.datasets import paths
from etl.datasets.definition import DIGEST, LINEAGE, SOURCE, Column, Condition, Dataset, Table
from etl.datasets.types import OPTIONS, NumberType, ServerType, TimeType, with_option

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}")
NAME_LENGTH = 63
"""The longest name of PostgreSQL."""
_COLUMN_NAME = re.compile(r"[^\W\d](?:\w|[^\x00-\x7f])*")
"""Letters of every script: PostgreSQL takes any of them, in names of at most 63 bytes."""
_OTHERS_SCHEMA = re.compile(r"(etl|etl_staging|pg_.*|information_schema)\.")
SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})

NUMBER_FORMATS = frozenset({"epoch", "epoch_s", "epoch_ms", "excel", "aspnet"})
"""Formats of times that are numbers."""

# Without those that depend on the locale of the process.
_DIRECTIVES = frozenset(f"%{letter}" for letter in "YymbBdjaAHIpMSfz%")
_DIRECTIVES_OF = {"year": {"%Y", "%y"}, "month": {"%m", "%b", "%B", "%j"}, "day": {"%d", "%j"}, "hour": {"%H", "%I"}}


def problems(dataset: Dataset, path: Path) -> Iterator[str]:
    """Yield the problems of a definition that was read from this file."""
    if dataset.name != path.stem:
        yield f"expected name = {path.stem!r}, as the file is named, got {dataset.name!r}"
    if not _NAME.fullmatch(dataset.name):
        yield f"expected a name of letters, digits and _, at most {NAME_LENGTH} long, got {dataset.name!r}"
    if not dataset.tables:
        yield "expected at least one [[table]]"
        return
    *names, last = dataset.records.split(".")
    if dataset.records and (not all([*names, last]) or ("*" in names and last not in {"item", "*"})):
        yield f"records: expected a path such as item, shipments.item, shipments.* or *.item, got {dataset.records!r}"
    *before, _ = dataset.record_tables or dataset.tables[:1]
    for table in before:
        if not table.where:
            yield f"table {table.name}: expected `where`: without it a later table without `each` gets no record"
    for number, table in enumerate(dataset.tables):
        if not re.fullmatch(rf"{_NAME.pattern}\.{_NAME.pattern}", table.name):
            yield f"table {number + 1}: expected a name such as logistics.shipments, got {table.name!r}"
        if _OTHERS_SCHEMA.match(table.name):
            yield f"table {table.name}: the schema is not for facts: PostgreSQL or the ledger uses it"
        if table.each and not number:
            yield f"table {table.name}: only later tables have `each`"
        yield from (f"table {table.name}{problem}" for problem in _table_problems(table))
    if len({table.name for table in dataset.tables}) != len(dataset.tables):
        yield "two tables have one name"
    yield from _key_problems(dataset)


def _table_problems(table: Table) -> Iterator[str]:
    if "\0" in (table.comment or ""):
        yield ": PostgreSQL holds no NUL character"
    for path in table.each:
        try:
            paths.steps(path)
        except ValueError:
            yield f": each expects a path such as items, got {path!r}"
    for condition in table.where:
        yield from (f": where{problem}" for problem in condition_problems(condition, table))
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


def condition_problems(condition: Condition, table: Table) -> Iterator[str]:
    """Yield the problems of a condition on the objects of a table, as they follow the name of its option."""
    yield from (f": {problem}" for problem in _misused_path(condition, table))
    if not condition.values:
        yield f" expects values of {condition.path}, got none"


def _key_problems(dataset: Dataset) -> Iterator[str]:
    if len(set(dataset.key)) != len(dataset.key):
        yield f"key names a column twice: {', '.join(dataset.key)}"
    if dataset.mode == "merge" and not dataset.key:
        yield "mode merge expects `key`"
    if dataset.key and len(dataset.record_tables) > 1 and any(table.each for table in dataset.tables):
        yield (
            "a dataset with `key` and several tables without `each` cannot have tables with `each`:"
            " divide it into several datasets"
        )
    for name in dataset.key:
        yield from _key_column_problems(dataset, name)
    for table in dataset.record_tables if dataset.newest_by else ():
        newest = table.column(dataset.newest_by or "")
        if newest is None or not newest.column_type.is_single:
            yield f"newest_by names {dataset.newest_by!r}, which is not a comparable column of {table.name}"
    if dataset.newest_by and not dataset.key:
        yield "newest_by expects `key`"
    if dataset.on_duplicate and not dataset.key:
        yield "on_duplicate expects `key`"
    for table in dataset.tables:
        for column in table.columns:
            if column.keep_first:
                yield from (
                    f"table {table.name}, column {column.name}: {text}"
                    for text in _first_problems(dataset, table, column)
                )


def _first_problems(dataset: Dataset, table: Table, column: Column) -> Iterator[str]:
    if not dataset.key or table.each:
        yield "keep_first expects a dataset with `key`, and a table without `each`: only its rows have versions"
    if column.name in {*dataset.key, dataset.newest_by}:
        yield "keep_first expects a column that is neither in the key nor newest_by"
    if dataset.on_duplicate == "first":
        yield "keep_first and on_duplicate = 'first' exclude each other: the later versions are left out anyway"
    longest = max(column.names_of_first, key=len)
    if len(longest.encode()) > NAME_LENGTH:
        yield f"keep_first makes the column {longest}, whose name is longer than {NAME_LENGTH} letters"
    if any(other.name in column.names_of_first for other in table.columns):
        yield "keep_first makes columns of which the table has one already"


def _key_column_problems(dataset: Dataset, name: str) -> Iterator[str]:
    first, *others = dataset.tables
    column = first.column(name)
    if column is None:
        yield f"key names {name!r}, which is not a column of {first.name}"
        return
    if not column.required:
        yield f"table {first.name}, column {name}: a key column expects required = true"
    elif not column.column_type.is_single:
        yield f"table {first.name}, column {name}: a key column cannot be {column.type}"
    for table in others:
        key_column = table.column(name)
        if key_column is None or key_column.type != column.type:
            yield f"table {table.name}: expected the key column {name} of type {column.type}"
        elif not table.each and not key_column.required:
            yield f"table {table.name}, column {name}: a key column expects required = true"


def _misuses(column: Column, table: Table) -> Iterator[str]:
    is_name = _COLUMN_NAME.fullmatch(column.name) and column.name.isprintable() and " " not in column.name
    if not is_name or len(column.name.encode()) > NAME_LENGTH:
        yield f"expected a name of letters, digits and _, at most {NAME_LENGTH} long"
    if column.name in {*LINEAGE, DIGEST}:
        yield "the name is used by the lineage of each row"
    if column.name in SYSTEM_COLUMNS:
        yield "the name is used by PostgreSQL"
    yield from _misused_texts(column, table)
    yield from _misused_options(column)
    yield from _misused_bounds(column)
    yield from _misused_times(column)
    if column.max_length is not None and column.max_length < 1:
        yield f"max_length expects 1 or more, got {column.max_length}"
    if column.misfits_to is not None:
        target = table.column(column.misfits_to)
        if target is None or target.type != "text" or target is column:
            yield f"misfits_to names {column.misfits_to!r}, which is not another text column of the table"
        if column.required:
            yield "a required column cannot send its misfits elsewhere: it would be null"
        if isinstance(column.column_type, ServerType):
            yield f"misfits_to expects a type that the loader judges; of {column.type} the server refuses whole records"


def _misused_options(column: Column) -> Iterator[str]:
    for option in sorted(OPTIONS - column.column_type.options):
        if getattr(column, option) not in {None, ()}:
            yield f"{option} expects type {with_option(option)}, not {column.type}"
    if column.exact and not isinstance(column.column_type, NumberType):
        yield f"exact expects a type of numbers, not {column.type}"
    if set(column.true) & set(column.false):
        yield "true and false name one value"
    if not column.column_type.is_single:
        for option in ("trim", "default"):
            if getattr(column, option) not in {False, None}:
                yield f"{option} expects a type of single values, not {column.type}"


def _misused_texts(column: Column, table: Table) -> Iterator[str]:
    if any("\0" in str(text) for text in (column.comment, column.value, column.default, *column.one_of)):
        yield "PostgreSQL holds no NUL character"
    if column.value is not None and column.path != column.name:
        yield "path and value exclude each other"
    if column.match is not None and column.value != SOURCE:
        yield f"match expects value = {SOURCE!r}"
    if column.match is not None:
        try:
            groups = re.compile(column.match).groups
        except re.error as error:
            yield f"match expects a regular expression, got an invalid one: {error}"
        else:
            if groups > 1:
                yield "match expects at most one group: the group is the value"
    yield from _misused_path(column, table)


def _misused_path(part: Column | Condition, table: Table) -> Iterator[str]:
    try:
        path = part.value_path
    except ValueError as error:
        yield str(error)
        return
    if path.sign == "$" and isinstance(part, Condition):
        yield f"path {part.path!r} leads to the document, and a condition takes members of the object"
    depth = len(table.each)
    if (path.up or path.sign == "#") and not depth:
        yield f"path {part.path!r} has a meaning only in a table with `each`"
    elif path.up > depth or (path.sign == "#" and path.up == depth):
        yield f"path {part.path!r} leads beyond the record"


def _misused_times(column: Column) -> Iterator[str]:
    if column.timezone is not None and column.timezone not in _zones():
        close = difflib.get_close_matches(column.timezone, _zones(), n=1)
        proposal = f"; did you mean {close[0]}?" if close else ""
        yield f"timezone expects a name such as America/Sao_Paulo or UTC, got {column.timezone!r}{proposal}"
    type_ = column.column_type
    if isinstance(type_, TimeType):
        for form in column.formats:
            problems = _misused_format(form, type_, has_zone=column.timezone is not None)
            yield from (f"format {form!r} {problem}" for problem in problems)


def _misused_format(form: str, type_: TimeType, *, has_zone: bool) -> Iterator[str]:
    if form in NUMBER_FORMATS:
        if form == "excel" and (type_.zone == "required" and not has_zone):
            yield "has no zone: expected `timezone`"
        return
    signs = re.findall("%.?", form)
    unknown = [sign for sign in signs if sign not in _DIRECTIVES]
    if unknown:
        yield f"has {unknown[0]}, expected only {' '.join(sorted(_DIRECTIVES))}"
    for part in type_.parts:
        if not _DIRECTIVES_OF[part] & set(signs):
            yield f"names no {part}: expected {' or '.join(sorted(_DIRECTIVES_OF[part]))}"
    if "%z" in signs and type_.zone == "refused":
        yield f"has a zone, %z, and a {type_.name} has none: the type of an instant is timestamptz"
    if "%z" not in signs and type_.zone == "required" and not has_zone:
        yield "has no zone: expected %z in it, or `timezone`"


def _zones() -> frozenset[str]:
    # Imported here because most definitions name no zone. PostgreSQL takes a name without a slash for the abbreviation
    # of a fixed offset (CET has no summer time); UTC is the exception.
    from zoneinfo import available_timezones  # noqa: PLC0415 - as the comment says

    return frozenset(name for name in available_timezones() if "/" in name or name == "UTC")


def _misused_bounds(column: Column) -> Iterator[str]:
    bounds: dict[str, Any] = {}
    for option in ("min", "above", "max"):
        bound = getattr(column, option)
        if bound is not None and option in column.column_type.options:
            try:
                bounds[option] = column.column_type.bound(str(bound))
            except ValueError as error:
                yield f"{option} expects {error}, got {bound!r}"
                return
    if "max" not in bounds:
        return
    if "min" in bounds and bounds["max"] < bounds["min"]:
        yield f"no value is at least {column.min} and at most {column.max}"
    if "above" in bounds and bounds["max"] <= bounds["above"]:
        yield f"no value is more than {column.above} and at most {column.max}"
