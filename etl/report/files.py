"""Reports as CSV, JSON or Parquet: all rows and all digits, in constant memory."""

from typing import BinaryIO

import msgspec
import psycopg
import structlog
from psycopg import sql

from etl.errors import UsageError
from etl.precalculation import reading
from etl.precalculation.reading import Subject

log = structlog.get_logger(__name__)


def write_csv(connection: psycopg.Connection, subject: Subject, limit: int | None, output: BinaryIO) -> None:
    """Write CSV as PostgreSQL does, with a header: a null is empty, an empty text is two quotes."""
    output.writelines(reading.read_csv(connection, subject, limit))


def write_json(connection: psycopg.Connection, subject: Subject, limit: int | None, output: BinaryIO) -> None:
    """Write one JSON object per line; numbers keep their digits."""
    encoder = msgspec.json.Encoder(decimal_format="number")
    names = [name for name, _ in subject.columns]
    rows = reading.read(connection, subject, limit)
    output.writelines(encoder.encode(dict(zip(names, row, strict=True))) + b"\n" for row in rows)


def write_parquet(connection: psycopg.Connection, subject: Subject, limit: int | None, output: BinaryIO) -> None:
    """Write Parquet with the types of an export; comments become metadata.

    An infinite time becomes null; a line of the log counts these values. Raises UsageError when pyarrow is missing.
    """
    try:
        from etl.exporting import single  # noqa: PLC0415 - it needs pyarrow
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise UsageError("Parquet needs pyarrow, which is not installed", hint="pip install pyarrow") from error

    table = f"analytics.{subject.name}"
    lost = single.write_parquet(
        connection,
        table,
        [name for name, _ in subject.columns],
        {"order": subject.order, "limit": sql.Literal(limit)},
        output,
        {"table": table, "grain": subject.grain},
    )
    for name, count in lost.items():
        log.warning("times_not_in_parquet", table=table, column=name, values=count)
