"""From a row back to its record: the source, the record's number and byte, and its text while the source is there.

The ledger knows the batch that a row came with, and the row its place in it. The bytes are shown only when they are
those that were loaded.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args

import psycopg
from psycopg import sql

from etl import queries
from etl.errors import SourceError, UsageError
from etl.ingestion.failed_store.locating import RecordLocation, locate
from etl.ingestion.framing.boundaries import NotJSON
from etl.ingestion.sources.stream import Stream, opened
from etl.ingestion.values import Piece, PieceShape, Source, hash_of

MAX_ROWS = 20

_SQL = queries.load("history")
_ENCODING = re.compile(r"--encoding (\S+)")


def trace(
    connection: psycopg.Connection, table: str, wanted: Sequence[tuple[str, str]]
) -> tuple[list[dict[str, Any]], bool]:
    """Return where the rows came from that hold these values, by column, and whether more do than MAX_ROWS.

    `text` is the record as its source holds it, or null with the reason in `missing`. Raises UsageError when there is
    no such table, column or value.
    """
    conditions = [sql.SQL("r.{} = %s").format(sql.Identifier(column)) for column, _ in wanted]
    statement = _SQL["trace"].format(
        table=sql.Identifier(*table.split(".")), conditions=sql.SQL(" and ").join(conditions), limit=MAX_ROWS + 1
    )
    try:
        rows = queries.rows(connection, statement, [value for _, value in wanted])
    except psycopg.errors.UndefinedTable:
        raise UsageError(f"there is no table {table}", hint="name it with its schema, as logistics.shipments") from None
    except psycopg.errors.UndefinedColumn as error:
        raise UsageError(f"{table}: {error.diag.message_primary}", hint="only tables of a dataset are traced") from None
    except psycopg.errors.DataError:
        raise UsageError(f"{table}: a value is none of its column's type") from None
    if not rows:
        raise UsageError(f"no row of {table} holds these values")
    return [_traced(row) for row in rows[:MAX_ROWS]], len(rows) > MAX_ROWS


def _traced(row: Mapping[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {name: row[name] for name in ("run", "dataset", "source", "loaded_at")}
    told |= {"record": None, "offset": None, "text": None, "missing": None}
    if row["run"] is None:
        return told | {"missing": "the row was not loaded by a run that this ledger knows"}
    told["record"] = row["first_record"] + row["place"] - 1
    try:
        located = _located(row)
    except SourceError as error:
        return told | {"missing": str(error)}
    return told | {"offset": located.offset, "text": located.text.decode("utf-8", errors="replace")}


def _located(row: Mapping[str, Any]) -> RecordLocation:
    """Return where the record stands in its source.

    Raises SourceError when the source is not there any more, or is another one.
    """
    source = row["source"]
    path = Path(row["folder"] or "", source)
    if source == "-" or "://" in source or not path.is_file():
        raise SourceError(f"{source} is not a file that is there now")
    encoding = _ENCODING.search(row["options"] or "")
    name = shlex.split(encoding[1])[0] if encoding else "auto"
    with opened(Source(name=source, path=str(path), encoding=name)) as stream:
        data = _range(stream, row["offset"], row["bytes"])
    if hash_of(data) != bytes(row["hash"]):
        raise SourceError(f"{source} holds something else now")
    for shape in get_args(PieceShape):
        piece = Piece(
            offset=row["offset"],
            count=row["count_records"],
            first_record=row["first_record"],
            parts=(data,),
            shape=shape,
        )
        # How its records are set apart is not in the ledger: it is the way by which there are as many.
        with suppress(NotJSON, ValueError):
            found = locate(piece, range(1, row["count_records"] + 2))
            if len(found) == row["count_records"]:
                return found[row["place"]]
    raise SourceError(f"the records of {source} cannot be told apart")


def _range(stream: Stream, offset: int, length: int) -> bytes:
    """Return bytes of the content: at once where they stand as they are stored, else by reading up to them."""
    if stream.plain_path:
        with Path(stream.plain_path).open("rb") as file:
            file.seek(offset)
            return file.read(length)
    while stream.position < offset and stream.read(min(1 << 20, offset - stream.position)):
        pass
    parts = []
    while length > 0 and (data := stream.read(length)):
        parts.append(data)
        length -= len(data)
    return b"".join(parts)
