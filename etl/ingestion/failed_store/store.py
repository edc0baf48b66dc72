"""The failed store: the original text of refused records, each file complete or absent (contract C6).

It is a folder, or a folder of an object store.

One writer works in the background. A batch commits only after the futures of its files are done. The state of a
failure is in the ledger; the copy of it here may be older.
"""

import hashlib
import os
import re
import secrets
import stat
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import structlog

from etl.errors import DatabaseError, UsageError, reason_of
from etl.ingestion.constants import FAILURES_IN_FLIGHT, STORE_WRITERS
from etl.ingestion.failed_store.files import (
    File,
    beginning,
    flush_folder,
    make_folder,
    open_private,
    place_of,
    remove_if_empty,
    write_file,
)
from etl.ingestion.values import Failure, StoredRecord
from etl.settings import Url

log = structlog.get_logger(__name__)

# ID.json begins with its id and its run: this many bytes hold both.
_BEGINNING = 1024

_OF_OTHERS = 0o007
"""The permissions of all users but the owner and the group; a folder may be for a group."""


Document = TypeVar("Document")


class FailureDetails(msgspec.Struct, frozen=True, kw_only=True):
    """The records of a failure as ID.json describes them, in the order of their lines."""

    records: tuple[StoredRecord, ...]
    is_keyed: bool = msgspec.field(default=False, name="keyed")
    document: dict[str, str] = {}


class FailedStore:
    """The folder of the failed store with its background writer; a context that waits for the writer at its end.

    Raises UsageError for a URL at which no failed store can be.
    """

    def __init__(self, folder: Path | Url) -> None:
        self.folder = place_of(folder)
        self.database = ""
        # An upload mostly waits; files of one disk would only wait for each other.
        writers = 1 if isinstance(self.folder, Path) else STORE_WRITERS
        self._writer = ThreadPoolExecutor(max_workers=writers, thread_name_prefix="failed-store")
        self._slots = threading.BoundedSemaphore(FAILURES_IN_FLIGHT)

    def belong_to(self, database: str) -> None:
        """Write, change and remove the files of this database only (`runs.database_id`).

        A copy of a database has the same runs and failures, and may use the same folder.
        """
        self.database = database

    def prepare(self) -> None:
        """Make the folder and check that it can be written.

        An existing folder that others may read is made private, because its records are not for them.

        Raises UsageError when it cannot be written, or belongs to another user and is open to others.
        """
        try:
            if isinstance(self.folder, Path):
                self.folder.parent.mkdir(parents=True, exist_ok=True)
                make_folder(self.folder)
                _require_private(self.folder)
            self.probe().unlink()
        except OSError as error:
            raise UsageError(
                f"the failed store {self.folder} cannot be written: {reason_of(error)}",
                hint="name another folder by --failed-dir or ETL_FAILED_DIR",
            ) from error

    def probe(self) -> File:
        """Write an empty file of a name of its own, and return it; its owner removes it.

        Raises OSError.
        """
        probe = self.folder / f".probe-{os.getpid()}-{secrets.token_hex(4)}"
        if isinstance(probe, Path):
            os.close(open_private(str(probe), os.O_CREAT | os.O_WRONLY))
        else:
            probe.write_bytes(b"")
        return probe

    def write(self, failure: Failure) -> Future[None]:
        """Write the two files of a failure in the background. Waits while too many failures are in the queue.

        The future raises DatabaseError when the disk cannot take them: the batch must not commit then.
        """
        self._slots.acquire()
        future = self._writer.submit(_write, self.folder, failure, self.database)
        future.add_done_callback(lambda _: self._slots.release())
        return future

    def remove(self, dataset: str, run: str, id: str) -> int | None:
        """Remove the files of a failure, and the folder of its run when it is empty then.

        Returns the bytes of the files, None when there were none of this database. Raises UsageError when they cannot
        be removed.
        """
        path = self.path(dataset, run, id)
        try:
            if not is_own(path, self.database):
                log.info("file_of_another_database", path=str(path))
                return None
            files = [file for file in (path, path.with_suffix(".json")) if file.is_file()]
            size = sum(file.stat().st_size for file in files)
            for file in files:
                file.unlink(missing_ok=True)
            if files:
                remove_if_empty(path.parent)
        except OSError as error:
            raise UsageError(f"cannot remove {path} of the failed store: {reason_of(error)}") from error
        return size if files else None

    def note_state(self, dataset: str, run: str, id: str, state: str, note: str | None) -> None:
        """Copy a state of the ledger into ID.json, for people who read the folder.

        The ledger has the state already: a missing or unwritable file is logged and is no error.
        """
        path = self.path(dataset, run, id)
        try:
            require_own(path, self.database)
            write_json(
                path.with_suffix(".json"),
                self.document(dataset, run, id) | {"state": state, "note": note},
                self.database,
            )
            if not path.exists():  # A purge removed both meanwhile.
                path.with_suffix(".json").unlink(missing_ok=True)
        except (UsageError, OSError):
            log.warning("state_not_noted", folder=str(self.folder), id=id, state=state)

    def path(self, dataset: str, run: str, id: str) -> File:
        """Return the file with the records of a failure.

        Raises UsageError for a name that would lead out of the store, and when an object store does not answer.
        """
        for name in (dataset, run, id):
            if name in {"", ".", ".."} or "/" in name or "\0" in name:
                raise UsageError(f"{name!r} is not the name of a dataset, a run or a failure")
        beside = beside_of(self.folder / dataset / run, self.database) / f"{id}.ndjson"
        with _reachable(self.folder):
            return beside if beside.with_suffix(".json").exists() else self.folder / dataset / run / beside.name

    def has_run(self, dataset: str, run: str) -> bool:
        """Return whether the store has a folder of this run."""
        folder = self.folder / dataset / run
        with _reachable(self.folder):
            return folder.is_dir() or beside_of(folder, self.database).is_dir()

    def document(self, dataset: str, run: str, id: str) -> dict[str, Any]:
        """Read all of ID.json, also members of another version of this tool.

        Raises UsageError when the file does not exist or is damaged.
        """
        return _read_json(self.path(dataset, run, id), dict[str, Any])

    def require_own(self, dataset: str, run: str, id: str) -> None:
        """Raise UsageError when the files of a failure belong to another database."""
        require_own(self.path(dataset, run, id), self.database)

    def details(self, dataset: str, run: str, id: str) -> FailureDetails:
        """Read the descriptions of the records of a failure from ID.json.

        Raises UsageError when the file does not exist or is damaged.
        """
        return _read_json(self.path(dataset, run, id), FailureDetails)

    def content(self, dataset: str, run: str, id: str) -> bytes:
        """Read the records of a failure as they are in the store now, one per line.

        Raises UsageError when the file does not exist.
        """
        path = self.path(dataset, run, id)
        try:
            return path.read_bytes()
        except OSError as error:
            raise UsageError(
                f"cannot read {path} of the failed store",
                hint="name its folder by --failed-dir or ETL_FAILED_DIR; if the file is lost, give its records up:"
                f" etl failed discard {path.stem} --reason lost",
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.shutdown(wait=True)


@contextmanager
def _reachable(folder: File) -> Iterator[None]:
    """Let an object store that does not answer be a UsageError; a folder of a disk answers."""
    try:
        yield
    except OSError as error:
        raise UsageError(
            f"the failed store {folder} cannot be read: {reason_of(error)}",
            hint="check the address and its access rights, and run the same command",
        ) from error


def _require_private(folder: Path) -> None:
    if folder.is_symlink():
        log.warning("failed_store_is_link", folder=str(folder), target=os.path.realpath(folder))
    found = folder.stat()
    mode = stat.S_IMODE(found.st_mode)
    if not mode & _OF_OTHERS:
        return
    if found.st_uid != os.geteuid():
        raise UsageError(
            f"the failed store {folder} belongs to another user and is open to others: mode {mode:04o}",
            hint="let its owner run chmod 700 on it, or name another folder by --failed-dir or ETL_FAILED_DIR",
        )
    folder.chmod(0o700)
    log.warning("failed_store_made_private", folder=str(folder), mode_before=f"{mode:04o}")


def first_stored(folder: Path | Url, paths: Iterable[str]) -> str | None:
    """Return the first of some sources that is part of a failed store, in this folder or elsewhere: `load` refuses it.

    The sources are paths of files, or URLs.
    """
    is_own: dict[str, bool] = {}  # A command may have many thousand files of a few folders.
    for path in paths:
        if "://" in path:
            if path.startswith(f"{str(folder).rstrip('/')}/"):
                return path
            continue
        parent = path[: path.rfind(os.sep) + 1]
        try:
            if parent not in is_own:
                is_own[parent] = _is_in(parent, folder)
            is_stored = is_own[parent]
            if os.path.islink(path):  # noqa: PTH114 - a Path of each file would take longer than the look
                is_stored = _is_in(path, folder)
        except (OSError, RuntimeError):  # Python 3.11 and 3.12 raise a RuntimeError for a loop of links.
            continue
        if is_stored or _is_described(path):
            return path
    return None


def _is_in(path: str, folder: Path | Url) -> bool:
    return isinstance(folder, Path) and Path(path).resolve().is_relative_to(folder.resolve())


def _is_described(path: str) -> bool:
    """Return whether the description of a file of a failed store is beside this file."""
    stem, _, suffix = path.rpartition(".")
    if suffix != "ndjson":
        return False
    try:
        # A file of this name may be anything, of any size.
        with open(f"{stem}.json", "rb") as file:  # noqa: PTH123 - as above
            beginning = file.read(_BEGINNING)
    except OSError:
        return False
    name = os.fsencode(stem.rpartition(os.sep)[2])
    return re.match(rb'\{\s*"id":\s*"' + re.escape(name) + rb'",\s*"run":\s*"', beginning) is not None


def _read_json(records: File, kind: type[Document]) -> Document:
    path = records.with_suffix(".json")
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"cannot read {path} of the failed store",
            hint="name its folder by --failed-dir or ETL_FAILED_DIR; `etl failed purge` may have removed it",
        ) from error


_OWNER = re.compile(rb'"database":\s*"([^"]*)"')


def owner(path: File) -> str | None:
    """Return the database to which a file of the store belongs; None when nobody knows.

    Raises OSError when an object store does not answer.
    """
    try:
        found = _OWNER.search(beginning(path.with_suffix(".json"), _BEGINNING))
    except FileNotFoundError:
        return None
    except OSError:
        if isinstance(path, Path):
            return None
        raise  # It may answer the next question, and this name may be another database's.
    return found[1].decode() if found else None


def is_own(path: File, database: str) -> bool:
    """Return whether a file of the store belongs to this database, or may belong to it.

    Raises OSError when an object store does not answer.
    """
    return not database or owner(path) in {database, None}


def require_own(path: File, database: str) -> None:
    """Raise UsageError when a file of the store belongs to another database."""
    with _reachable(path.parent):
        is_known = is_own(path, database)
    if not is_known:
        raise UsageError(
            f"{path} belongs to another database: this one is a copy of it, or was restored from it",
            hint="if the other one is in use, name a folder of its own by --failed-dir or ETL_FAILED_DIR; if this one"
            " has taken its place: etl failed adopt",
        )


def beside_of(run_folder: File, database: str) -> File:
    """Return the folder of a run for the files whose names another database, a copy of this one, has taken."""
    return run_folder.with_name(f"{run_folder.name}.{_short(database)}") if database else run_folder


def _short(database: str) -> str:
    return hashlib.sha256(database.encode()).hexdigest()[:8]


def _write(folder: File, failure: Failure, database: str) -> None:
    document = {
        "id": failure.id,
        "run": failure.run,
        **({"database": database} if database else {}),
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
        **({"document": dict(failure.document)} if failure.document else {}),
        "error": {"sqlstate": failure.sqlstate, "message": failure.message},
        "records": failure.records,
    }
    try:
        run_folder = folder / failure.dataset / failure.run
        if not is_own(run_folder / f"{failure.id}.ndjson", database):
            run_folder = beside_of(run_folder, database)
        records = run_folder / f"{failure.id}.ndjson"
        # The folder of the store itself is not made here: where it is missing, its disk is not mounted.
        make_folder(run_folder.parent)
        make_folder(run_folder)
        # First the file that names the database: records are never without it.
        write_json(records.with_suffix(".json"), document, database)
        write_file(records, [failure.lines], temporary_ending(database))
        flush_folder(run_folder)
    except OSError as error:
        raise DatabaseError(
            f"the failed store {folder} cannot take a file: {reason_of(error)}",
            hint="make room and run the same command; no record is lost",
        ) from error


def write_json(path: File, document: Mapping[str, Any], database: str) -> None:
    """Write a JSON document that people can read; it is complete or absent."""
    write_file(path, [msgspec.json.format(msgspec.json.encode(document)), b"\n"], temporary_ending(database))


def temporary_ending(database: str) -> str:
    """Return the ending of the temporary names of a database: two databases never write to the same one."""
    return f".{_short(database)}.tmp" if database else ".tmp"
