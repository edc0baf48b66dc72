"""What happened, as plain values: the thread that sends makes the events of them. Knows no client and no connection."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from etl.datasets import Column, Dataset, Table, columns_in_database


@dataclass(frozen=True, kw_only=True)
class Field:
    """A column with its type and comment, and the path of its value in a record; None: it has none."""

    name: str
    kind: str | None = None
    comment: str | None = None
    path: str | None = None
    is_changed: bool = False


@dataclass(frozen=True, kw_only=True)
class Place:
    """A source or a table by the names that lineage gives it, with what it holds."""

    namespace: str
    name: str
    fields: Sequence[Field] = ()
    comment: str | None = None


@dataclass(frozen=True, kw_only=True)
class Work:
    """A run or a refresh: its job, what it reads and what it writes.

    `key` is the text that its id is made of, together with the time of its begin.
    """

    key: str
    job: str
    kind: Literal["LOAD", "REFRESH"]
    description: str
    began_at: datetime
    inputs: Sequence[Place]
    outputs: Sequence[Place]
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Event:
    """The begin or the end of a work.

    `rows` are those of each output by its name; `read` are the records of the input, and `size` its bytes.
    """

    work: Work
    state: Literal["START", "COMPLETE", "FAIL"]
    at: datetime
    rows: dict[str, int] = field(default_factory=dict)
    read: int | None = None
    size: int | None = None
    error: str | None = None


def source_of(name: str, dataset: Dataset) -> Place:
    """Return a source as an input: its name, and the paths of the members that the definition takes from a record."""
    columns = (column for table in dataset.tables for column in _fields(dataset, table))
    paths = dict.fromkeys(column.path for column in columns if column.path)
    fields = [Field(name=path) for path in sorted(path for path in paths if path)]
    if "://" not in name:
        return Place(namespace="file", name=name if name == "-" else str(Path(name).absolute()), fields=fields)
    parts = urlsplit(name)
    return Place(
        namespace=f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", name=parts.path.lstrip("/"), fields=fields
    )


def tables_of(dataset: Dataset, namespace: str, database: str) -> list[Place]:
    """Return the tables of a dataset as outputs."""
    return [
        Place(
            namespace=namespace,
            name=f"{database}.{table.name}",
            fields=list(_fields(dataset, table)),
            comment=table.comment,
        )
        for table in dataset.tables
    ]


def _fields(dataset: Dataset, table: Table) -> Iterator[Field]:
    columns = {column.name: column for column in table.columns}
    for name, (kind, comment) in columns_in_database(dataset, table).items():
        column = columns.get(name)
        yield Field(
            name=name,
            kind=kind,
            comment=comment,
            path=_path(table, column) if column else None,
            is_changed=bool(column and (column.is_wrapped or column.formats or column.trim or column.null_if)),
        )


def _path(table: Table, column: Column) -> str | None:
    """Return the path of a value from the record on; None for a constant, a position and a key."""
    path = column.value_path
    if column.value is not None or path.sign in {"#", "@"}:
        return None
    if path.sign in {"$", "!"}:
        return column.path
    arrays = table.each[: len(table.each) - path.up] if path.up else table.each
    return ".".join([*arrays, *map(str, path.steps)]) or "."
