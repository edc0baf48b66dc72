"""The failed store: the original text of refused records on disk, each file complete or absent (contract C6).

One writer works in the background. A batch commits only after the futures of its files are done. The state of a
failure is in the ledger; the copy of it here may be older.
"""

import hashlib
import os
import re
import stat
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import structlog

from etl.errors import DatabaseError, UsageError, reason_of
from etl.ingestion.constants import FAILURES_IN_FLIGHT
from etl.ingestion.values import Failure, StoredRecord

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
    """The folder of the failed store with its background writer; a context that waits for the writer at its end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.database = ""
        self._writer = ThreadPoolExecutor(max_workers=1, thread_name_prefix="failed-store")
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
        probe = self.folder / f".probe-{os.getpid()}"
        try:
            self.folder.parent.mkdir(parents=True, exist_ok=True)
            _make_folder(self.folder)
            self._require_private()
            os.close(_open_private(str(probe), os.O_CREAT | os.O_WRONLY))
            probe.unlink()
        except OSError as error:
            raise UsageError(
                f"the failed store {self.folder} cannot be written: {reason_of(error)}",
                hint="name another folder by --failed-dir or ETL_FAILED_DIR",
            ) from error

    def _require_private(self) -> None:
        if self.folder.is_symlink():
            log.warning("failed_store_is_link", folder=str(self.folder), target=os.path.realpath(self.folder))
        found = self.folder.stat()
        mode = stat.S_IMODE(found.st_mode)
        if not mode & _OF_OTHERS:
            return
        if found.st_uid != os.geteuid():
            raise UsageError(
                f"the failed store {self.folder} belongs to another user and is open to others: mode {mode:04o}",
                hint="let its owner run chmod 700 on it, or name another folder by --failed-dir or ETL_FAILED_DIR",
            )
        self.folder.chmod(0o700)
        log.warning("failed_store_made_private", folder=str(self.folder), mode_before=f"{mode:04o}")

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
        if not is_own(path, self.database):
            log.info("file_of_another_database", path=str(path))
            return None
        files = [file for file in (path, path.with_suffix(".json")) if file.is_file()]
        try:
            size = sum(file.stat().st_size for file in files)
            for file in files:
                file.unlink(missing_ok=True)
            if files and not any(path.parent.iterdir()):
                path.parent.rmdir()
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

    def path(self, dataset: str, run: str, id: str) -> Path:
        """Return the file with the records of a failure.

        Raises UsageError for a name that would lead out of the store.
        """
        for name in (dataset, run, id):
            if name in {"", ".", ".."} or "/" in name or "\0" in name:
                raise UsageError(f"{name!r} is not the name of a dataset, a run or a failure")
        beside = beside_of(self.folder / dataset / run, self.database) / f"{id}.ndjson"
        return beside if beside.with_suffix(".json").exists() else self.folder / dataset / run / beside.name

    def has_run(self, dataset: str, run: str) -> bool:
        """Return whether the store has a folder of this run."""
        folder = self.folder / dataset / run
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


def first_stored(folder: Path, paths: Iterable[str]) -> str | None:
    """Return the first of some files that is part of a failed store, in this folder or elsewhere: `load` refuses it."""
    is_own: dict[str, bool] = {}  # A command may have many thousand files of a few folders.
    for path in paths:
        parent = path[: path.rfind(os.sep) + 1]
        try:
            if parent not in is_own:
                is_own[parent] = Path(parent).resolve().is_relative_to(folder.resolve())
            is_stored = is_own[parent]
            if os.path.islink(path):  # noqa: PTH114 - a Path of each file would take longer than the look
                is_stored = Path(path).resolve().is_relative_to(folder.resolve())
        except (OSError, RuntimeError):  # Python 3.11 and 3.12 raise a RuntimeError for a loop of links.
            continue
        if is_stored or _is_described(path):
            return path
    return None


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


def _read_json(records: Path, kind: type[Document]) -> Document:
    path = records.with_suffix(".json")
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except (OSError, msgspec.MsgspecError) as error:
        raise UsageError(
            f"cannot read {path} of the failed store",
            hint="name its folder by --failed-dir or ETL_FAILED_DIR; `etl failed purge` may have removed it",
        ) from error


_OWNER = re.compile(rb'"database":\s*"([^"]*)"')


def owner(path: Path) -> str | None:
    """Return the database to which a file of the store belongs; None when nobody knows."""
    try:
        with path.with_suffix(".json").open("rb") as file:
            found = _OWNER.search(file.read(_BEGINNING))
    except OSError:
        return None
    return found[1].decode() if found else None


def is_own(path: Path, database: str) -> bool:
    """Return whether a file of the store belongs to this database, or may belong to it."""
    return not database or owner(path) in {database, None}


def require_own(path: Path, database: str) -> None:
    """Raise UsageError when a file of the store belongs to another database."""
    if not is_own(path, database):
        raise UsageError(
            f"{path} belongs to another database: this one is a copy of it, or was restored from it",
            hint="if the other one is in use, name a folder of its own by --failed-dir or ETL_FAILED_DIR; if this one"
            " has taken its place: etl failed adopt",
        )


def beside_of(run_folder: Path, database: str) -> Path:
    """Return the folder of a run for the files whose names another database, a copy of this one, has taken."""
    return run_folder.with_name(f"{run_folder.name}.{_short(database)}") if database else run_folder


def _short(database: str) -> str:
    return hashlib.sha256(database.encode()).hexdigest()[:8]


def _write(folder: Path, failure: Failure, database: str) -> None:
    run_folder = folder / failure.dataset / failure.run
    if not is_own(run_folder / f"{failure.id}.ndjson", database):
        run_folder = beside_of(run_folder, database)
    records = run_folder / f"{failure.id}.ndjson"
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
        # The folder of the store itself is not made here: where it is missing, its disk is not mounted.
        _make_folder(run_folder.parent)
        _make_folder(run_folder)
        # First the file that names the database: records are never without it.
        write_json(records.with_suffix(".json"), document, database)
        _write_file(records, [failure.lines], database)
        _flush_folder(run_folder)
    except OSError as error:
        raise DatabaseError(
            f"the failed store {folder} cannot take a file: {reason_of(error)}",
            hint="make room and run the same command; no record is lost",
        ) from error


def write_json(path: Path, document: Mapping[str, Any], database: str) -> None:
    """Write a JSON document that people can read; it is complete or absent."""
    _write_file(path, [msgspec.json.format(msgspec.json.encode(document)), b"\n"], database)


def temporary_ending(database: str) -> str:
    """Return the ending of the temporary names of a database: two databases never write to the same one."""
    return f".{_short(database)}.tmp" if database else ".tmp"


def _write_file(path: Path, parts: Iterable[bytes], database: str) -> None:
    """Write a file by renaming a temporary one: after a crash it is complete or absent."""
    temporary = path.with_name(f".{path.name}{temporary_ending(database)}")
    with open(temporary, "wb", opener=_open_private) as file:
        file.writelines(parts)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _make_folder(folder: Path) -> None:
    """Make a folder if there is none: private to its owner whatever the umask, and flushed to the disk."""
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        return
    folder.chmod(0o700)
    _flush_folder(folder.parent)


def _open_private(path: str, flags: int) -> int:
    """Open a file that only its owner may read and write; an opener for `open`."""
    descriptor = os.open(path, flags, 0o600)
    os.fchmod(descriptor, 0o600)  # The umask may be stricter; a file that a crash left may be wider.
    return descriptor


def _flush_folder(folder: Path) -> None:
    """Flush the entries of a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
