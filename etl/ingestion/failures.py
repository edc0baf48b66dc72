"""The failed store: the original records of what was refused, on disk, complete or absent (contract C6).

One writer in the background; the caller commits only after the future of its file is done. The truth about states
is in the ledger, not here.
"""

import hashlib
import os
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from etl.errors import DatabaseError, UsageError
from etl.ingestion.boundaries import piece_spans
from etl.ingestion.constants import FAILURES_IN_FLIGHT
from etl.ingestion.values import Failure, Fault, Piece, Rejected

_LINE_ENDS = bytes.maketrans(b"\r\n", b"  ")


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where failed records come from: the run, and the names of its dataset and source."""

    run: str
    dataset: str
    source: str


def describe(
    piece: Piece, records: Sequence[Rejected], kind: Literal["rejected", "failed"], error: Fault, origin: Origin
) -> Failure:
    """Return the failure that keeps these records of a piece; `error` is what is told of all of them.

    Its id is made of run, offset and kind, so that a batch tried again writes the same file again.
    """
    spans = list(piece_spans(piece))
    lines = b"".join(
        piece.data[spans[record.place - 1].start : spans[record.place - 1].end].translate(_LINE_ENDS) + b"\n"
        for record in records
    )
    return Failure(
        id=f"{origin.run}-{piece.offset}-{kind[0]}",
        run=origin.run,
        dataset=origin.dataset,
        source=origin.source,
        batch=piece.offset,
        kind=kind,
        sqlstate=error.sqlstate,
        message=error.reason,
        records=tuple(
            {
                "record": piece.first_record + record.place - 1,
                "offset": piece.offset + spans[record.place - 1].start,
                "key": record.key,
                "table": record.fault.table,
                "column": record.fault.column,
                "sqlstate": record.fault.sqlstate,
                "reason": record.fault.reason,
            }
            for record in records
        ),
        lines=lines,
        sha256=hashlib.sha256(lines).hexdigest(),
    )


class FailedStore:
    """The folder of the failed store and its background writer; a context that drains at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="failed-store")
        self._waiting = threading.BoundedSemaphore(FAILURES_IN_FLIGHT)

    def prepare(self) -> None:
        """Make the folder and prove that it can be written.

        Raises UsageError when it cannot.
        """
        probe = self.folder / f".probe-{os.getpid()}"
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(probe, os.O_CREAT | os.O_WRONLY, 0o600)
            os.close(descriptor)
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"the failed store {self.folder} cannot be written: {(error.strerror or 'unknown error').lower()}",
                hint="name another folder by --failed-dir or ETL_FAILED_DIR",
            ) from error

    def write(self, failure: Failure) -> Future[None]:
        """Write the two files of a failure in the background; waits when too many wait already.

        The future raises DatabaseError when the disk does not take them: the batch must not commit then.
        """
        self._waiting.acquire()
        future = self._writer.submit(_write, self.folder, failure)
        future.add_done_callback(lambda _: self._waiting.release())
        return future

    def path(self, dataset: str, run: str, id: str) -> Path:
        """Return the file that holds the records of a failure."""
        return self.folder / dataset / run / f"{id}.ndjson"

    def details(self, dataset: str, run: str, id: str) -> dict[str, Any]:
        """Read what is told of the records of a failure.

        Raises UsageError when the file is not there or is damaged.
        """
        path = self.path(dataset, run, id).with_suffix(".json")
        try:
            return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        except (OSError, msgspec.MsgspecError) as error:
            raise UsageError(
                f"cannot read {path} of the failed store",
                hint="name its folder by --failed-dir or ETL_FAILED_DIR",
            ) from error

    def lines(self, dataset: str, run: str, id: str) -> list[bytes]:
        """Read the records of a failure as they are in the store now, one per line.

        Raises UsageError when the file is not there.
        """
        path = self.path(dataset, run, id)
        try:
            return path.read_bytes().splitlines()
        except OSError as error:
            raise UsageError(
                f"cannot read {path} of the failed store",
                hint="name its folder by --failed-dir or ETL_FAILED_DIR",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown(wait=True)


def is_stored(folder: Path, path: Path) -> bool:
    """Tell whether a file belongs to a failed store: it is for replay and not for load."""
    if path.resolve().is_relative_to(folder.resolve()):
        return True
    try:
        document = msgspec.json.decode(path.with_suffix(".json").read_bytes()) if path.suffix == ".ndjson" else None
    except (OSError, msgspec.MsgspecError):
        return False
    return isinstance(document, dict) and document.get("id") == path.stem and "sha256" in document


def _write(folder: Path, failure: Failure) -> None:
    parent = folder / failure.dataset / failure.run
    document = {
        "id": failure.id,
        "run": failure.run,
        "dataset": failure.dataset,
        "source": failure.source,
        "batch": failure.batch,
        "kind": failure.kind,
        "state": "pending",
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "attempts": failure.attempts,
        "parent": failure.parent,
        "note": None,
        "sha256": failure.sha256,
        "error": {"sqlstate": failure.sqlstate, "message": failure.message},
        "records": failure.records,
    }
    try:
        for made in (folder, folder / failure.dataset, parent):
            made.mkdir(mode=0o700, exist_ok=True)
        _replace(parent / f"{failure.id}.ndjson", [failure.lines])
        _replace(parent / f"{failure.id}.json", [msgspec.json.format(msgspec.json.encode(document)), b"\n"])
        _flush_folder(parent)
    except OSError as error:
        raise DatabaseError(
            f"the failed store {folder} cannot take a file: {(error.strerror or 'unknown error').lower()}",
            hint="make room and run the same command; no record is lost",
        ) from error


def _replace(path: Path, parts: Iterable[bytes]) -> None:
    """Write a file that is complete or absent, whatever happens in between."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "wb", opener=_private) as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
