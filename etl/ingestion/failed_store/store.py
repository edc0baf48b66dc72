"""The failed store: the original records of what was refused, on disk, complete or absent (contract C6).

One writer in the background; the caller commits only after the future of its file is done. The truth about states
is in the ledger, not here.
"""

import os
import re
import threading
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec
import structlog

from etl.errors import DatabaseError, UsageError, reason_of
from etl.ingestion.constants import FAILURES_IN_FLIGHT
from etl.ingestion.failed_store.files import flush_folder, make_folder, open_private, write_file, write_json
from etl.ingestion.values import Failure

log = structlog.get_logger(__name__)


# Where ID.json tells its id, far within.
_BEGINNING = 1024


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
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            make_folder(self.folder)
            os.close(open_private(str(probe), os.O_CREAT | os.O_WRONLY))
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"the failed store {self.folder} cannot be written: {reason_of(error)}",
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

    def sweep(self, dataset: str, run: str, named: Collection[str]) -> None:
        """Remove the files of a run that the ledger does not name: a crash left them before their batch committed."""
        self._remove(dataset, run, f"{run}-*", named)

    def sweep_replay(self, dataset: str, run: str, id: str) -> None:
        """Remove what a replay of a failure that still waits left when it was killed before it committed."""
        self._remove(dataset, run, f"{id}[rf]", ())

    def _remove(self, dataset: str, run: str, ids: str, named: Collection[str]) -> None:
        """Remove the failures whose ids match, but for those that are named; other files are somebody's own."""
        folder = self.folder / dataset / run
        for ending in (".ndjson", ".json"):
            for path in folder.glob(ids + ending):
                if path.stem not in named:
                    path.unlink(missing_ok=True)
            for path in folder.glob(f".{ids}{ending}.tmp"):
                path.unlink(missing_ok=True)

    def remove(self, dataset: str, run: str, id: str) -> int | None:
        """Remove the files of a failure, and the folder of its run with the last; return their bytes, None without any.

        Raises UsageError when they cannot be removed.
        """
        path = self.path(dataset, run, id)
        there = [each for each in (path, path.with_suffix(".json")) if each.is_file()]
        try:
            size = sum(each.stat().st_size for each in there)
            for each in there:
                each.unlink(missing_ok=True)
            if there and not any(path.parent.iterdir()):
                path.parent.rmdir()
        except OSError as error:
            raise UsageError(f"cannot remove {path} of the failed store: {reason_of(error)}") from error
        return size if there else None

    def note_state(self, dataset: str, run: str, id: str, state: str, note: str | None) -> None:
        """Note a state beside the records, for whoever looks at the folder.

        The ledger's word is the truth and stands already: where the file is gone or cannot be written that is logged.
        """
        try:
            document = self.details(dataset, run, id) | {"state": state, "note": note}
            write_json(self.path(dataset, run, id).with_suffix(".json"), document)
        except (UsageError, OSError):
            log.warning("state_not_told", folder=str(self.folder), id=id, state=state)

    def path(self, dataset: str, run: str, id: str) -> Path:
        """Return the file that holds the records of a failure.

        Raises UsageError for a name that leads out of the store.
        """
        for name in (dataset, run, id):
            if name in {"", ".", ".."} or "/" in name or "\0" in name:
                raise UsageError(f"{name!r} is no name of a dataset, a run or a failure")
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
                hint="name its folder by --failed-dir or ETL_FAILED_DIR; `etl failed purge` may have removed it",
            ) from error

    def content(self, dataset: str, run: str, id: str) -> bytes:
        """Read the records of a failure as they are in the store now, one per line.

        Raises UsageError when the file is not there.
        """
        path = self.path(dataset, run, id)
        try:
            return path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"cannot read {path} of the failed store", hint="name its folder by --failed-dir or ETL_FAILED_DIR"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown(wait=True)


def is_stored(folder: Path, path: Path) -> bool:
    """Tell whether a file belongs to a failed store: it is for replay and not for load."""
    try:
        if path.resolve().is_relative_to(folder.resolve()):
            return True
        # The file beside it may be anything, of any size.
        with path.with_suffix(".json").open("rb") as file:
            beginning = file.read(_BEGINNING)
    except (OSError, RuntimeError):  # Of a loop of links Python 3.11 and 3.12 tell by a RuntimeError.
        return False
    stored = rb'\{\s*"id":\s*"' + re.escape(os.fsencode(path.stem)) + rb'",\s*"run":\s*"'
    return path.suffix == ".ndjson" and re.match(stored, beginning) is not None


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
        **({"keyed": True} if failure.is_keyed else {}),
        "error": {"sqlstate": failure.sqlstate, "message": failure.message},
        "records": failure.records,
    }
    try:
        for made in (parent.parent, parent):  # and not the store: where it is gone, its disk is not mounted
            make_folder(made)
        write_file(parent / f"{failure.id}.ndjson", [failure.lines])
        write_json(parent / f"{failure.id}.json", document)
        flush_folder(parent)
    except OSError as error:
        raise DatabaseError(
            f"the failed store {folder} cannot take a file: {reason_of(error)}",
            hint="make room and run the same command; no record is lost",
        ) from error
