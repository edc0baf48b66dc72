"""What a crash left in the failed store, and the files of a database that another one has replaced.

A complete file that the ledger does not name is not removed: it is moved aside, into a folder of its run.
"""

import time
from collections.abc import Collection, Iterator
from datetime import timedelta

import structlog

from etl.errors import UsageError, reason_of
from etl.ingestion.failed_store.files import File, found, move, remove_if_empty
from etl.ingestion.failed_store.store import FailedStore, beside_of, is_own, owner, temporary_ending, write_json

log = structlog.get_logger(__name__)

ASIDE = "aside"
"""The folder for complete files that the ledger does not name, in the folder of their run."""

_ENDINGS = (".ndjson", ".json")


def sweep(store: FailedStore, dataset: str, run: str, known: Collection[str]) -> None:
    """Clear up after a crashed attempt of a run that this process holds; `known` are the ids in the ledger.

    Raises UsageError when the folder cannot be changed.
    """
    _clear(store, dataset, run, f"{run}-*", known)


def sweep_replay(store: FailedStore, dataset: str, run: str, id: str) -> None:
    """Clear up after a replay of this pending failure that was killed before its commit.

    Raises UsageError when the folder cannot be changed.
    """
    _clear(store, dataset, run, f"{id}[rf]", ())


def newest_runs(store: FailedStore, dataset: str, most: int) -> list[str]:
    """Return the newest runs of a dataset that have a folder; the name of a run begins with its time.

    Raises UsageError when the folder cannot be read.
    """
    try:
        folders = found(store.folder / dataset, "*")
    except OSError as error:
        raise _unreadable(store.folder / dataset, error) from error
    return sorted({_run_of(folder) for folder in folders}, reverse=True)[:most]


def runs_with_unknown(store: FailedStore, dataset: str, runs: Collection[str], known: Collection[str]) -> set[str]:
    """Return those of these runs that have files of other ids: crashes have left them, or commands are at work.

    Raises UsageError when a folder cannot be read.
    """
    folder = store.folder / dataset
    try:
        files = [path for run in runs for path in found(folder, f"{run}*/*.*")]
    except OSError as error:
        raise _unreadable(folder, error) from error
    return {_run_of(path.parent) for path in files if path.name.removeprefix(".").partition(".")[0] not in known}


def _run_of(folder: File) -> str:
    """Return the run of a folder; that of a copy of the database has a further ending."""
    return folder.name.partition(".")[0]


def _unreadable(folder: File, error: OSError) -> UsageError:
    return UsageError(f"cannot read {folder} of the failed store: {reason_of(error)}")


def _clear(store: FailedStore, dataset: str, run: str, ids: str, known: Collection[str]) -> None:
    """Remove temporary files, and move complete files aside that are not known; files of others stay."""
    of_run = store.folder / dataset / run
    for folder in {of_run, beside_of(of_run, store.database)}:
        try:
            _clear_folder(folder, store.database, ids, known)
        except OSError as error:
            raise UsageError(f"cannot clear up {folder} of the failed store: {reason_of(error)}") from error


def _clear_folder(folder: File, database: str, ids: str, known: Collection[str]) -> None:
    for ending in _ENDINGS:
        for temporary in {".tmp", temporary_ending(database)}:
            for path in folder.glob(f".{ids}{ending}{temporary}"):
                path.unlink(missing_ok=True)
    unknown = {path.stem for ending in _ENDINGS for path in folder.glob(ids + ending)} - set(known)
    for failure in sorted(unknown):
        if is_own(folder / f"{failure}.ndjson", database):
            _move_aside(folder, failure)


def _move_aside(folder: File, id: str) -> None:
    aside = folder / ASIDE
    # First the records: without ID.json, nobody knows whose they are.
    for path in (folder / f"{id}{ending}" for ending in _ENDINGS):
        if path.exists():
            move(path, aside)
    log.warning("file_moved_aside", id=id, folder=str(aside), reason="a crash left it, and the ledger does not name it")


def purge(store: FailedStore, age: timedelta, dataset: str | None) -> Iterator[tuple[str, int]]:
    """Remove files that were moved aside and are of this age; yield the id and the bytes of each.

    Raises UsageError when one cannot be removed.
    """
    before = time.time() - age.total_seconds()
    place: File = store.folder
    try:
        for place in found(store.folder, f"{dataset or '*'}/*/{ASIDE}/*"):
            size = _removed_if_old(place, before, store.database)
            if size is not None:
                yield place.name, size
    except OSError as error:
        raise UsageError(f"cannot remove {place} of the failed store: {reason_of(error)}") from error


def _removed_if_old(path: File, before: float, database: str) -> int | None:
    """Remove a file that was written before that time; return its bytes, None when it stays."""
    try:
        about = path.stat()
        if about.st_mtime > before or path.suffix not in _ENDINGS or not is_own(path, database):
            return None
        path.unlink()
        remove_if_empty(path.parent)
    except FileNotFoundError:
        return None
    return about.st_size


def adopt(store: FailedStore, dataset: str, run: str) -> int:
    """Let the files of a run belong to the database of this store; return how many belonged to another.

    Raises UsageError when one cannot be changed.
    """
    adopted = 0
    folder = store.folder / dataset / run
    try:
        for path in found(folder, f"{run}-*.json"):
            if owner(path) in {store.database, None}:
                continue
            document = store.document(dataset, run, path.stem)
            write_json(path, document | {"database": store.database}, store.database)
            adopted += 1
    except OSError as error:
        raise UsageError(f"cannot change {folder} of the failed store: {reason_of(error)}") from error
    return adopted
