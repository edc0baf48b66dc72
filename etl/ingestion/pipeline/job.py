"""A load as it is requested, for its targets; also its stop event, its display and its counts."""

import os
import shlex
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from etl.database.connecting import Database
from etl.datasets import Dataset
from etl.datasets.paths import parse
from etl.errors import EtlError, InterruptedByUserError, SignalledError
from etl.ingestion.constants import BYTES_PER_WORKER, FIRST_BATCH_ROWS, MAX_DEFAULT_WORKERS
from etl.ingestion.fingerprints import Mark
from etl.ingestion.framing.document_members import DocumentMembers
from etl.ingestion.framing.pieces import CutOptions
from etl.ingestion.ledger.runs import AttemptRequest, Run
from etl.ingestion.pipeline.targets import Target
from etl.ingestion.sources.stream import Stream
from etl.ingestion.summary import Summary
from etl.ingestion.values import Prover, Source, printable_path
from etl.logs import Logs
from etl.precalculation.refresh import RefreshResult
from etl.quick_dataclasses import dataclass
from etl.settings import LoadSettings

if TYPE_CHECKING:
    from etl.ingestion.sources.following import Ending

# How long a signal may wait to be seen: Python continues to sleep after it.
LOOK_SECONDS = 0.1

# How long work in hand may take after a signal: a lock or a lost connection can hold it up.
BATCH_SECONDS = 30.0
# The same while a refresh waits for another one.
REFRESH_LOCK_SECONDS = 5.0

_HINT = "run the same command to continue"


class Stop:
    """The stop event: the first signal sets it, the second one raises SignalledError.

    Whoever takes the signals sends a second one `grace_seconds` after the first.
    """

    def __init__(self) -> None:
        self.signal_number = 0
        self.ending: Ending | None = None  # of sources that are followed
        self.grace_seconds = BATCH_SECONDS
        self._is_reading = False

    def note(self, number: int) -> None:
        """Take a signal: the first sets the event and ends a wait for the source, the second raises at once.

        Sources that are followed end by one signal more, before the first.
        """
        if self.ending is not None and not self.ending.has_come:
            self.ending.come()
            return
        if self.signal_number:
            raise SignalledError  # psycopg cancels the statement of the server and rolls back
        self.signal_number = number
        if self._is_reading:
            self.check()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let a signal interrupt this block, which waits for the source while no batch is open.

        Raises InterruptedByUserError.
        """
        self._is_reading = True
        try:
            self.check()
            yield
        finally:
            self._is_reading = False

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Let a signal leave little time to this block, which waits for another refresh."""
        self.grace_seconds = REFRESH_LOCK_SECONDS
        try:
            yield
        finally:
            self.grace_seconds = BATCH_SECONDS

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Raise InterruptedByUserError where a second signal interrupts this block."""
        try:
            yield
        except KeyboardInterrupt:
            raise self._at_once() from None

    def check(self) -> None:
        """Raise InterruptedByUserError when a signal came."""
        if self.signal_number:
            raise InterruptedByUserError(
                f"stopped by signal {self.signal_number}", signal_number=self.signal_number, hint=_HINT
            )

    def _at_once(self) -> InterruptedByUserError:
        """Return the error of a second signal; its exit code is that of the first."""
        return InterruptedByUserError("stopped at once", signal_number=self.signal_number, hint=_HINT)

    def wait(self, seconds: float) -> None:
        """Sleep; raise InterruptedByUserError soon after a signal came."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, LOOK_SECONDS))
        self.check()


@dataclass(kw_only=True)
class Progress:
    """The open run and what its attempt counted itself, in records and bytes; the ledger must agree.

    `entered` are the records of the batches that the attempt entered, `loaded` and `failed` some of these, `unchanged`
    some of the loaded ones; `rejected`
    counts over all attempts of the run. `is_cut`: a limit ended the attempt, and the source may hold more.
    `is_shorter`: the source ends before the end of what the run knows. `doubled` are records that a forced append loads
    beside the rows of an earlier run. `error` is the reason of an early end.
    """

    run: Run | None = None
    read: int = 0
    skipped: int = 0
    entered: int = 0
    loaded: int = 0
    unchanged: int = 0
    failed: int = 0
    rejected: int = 0
    retried: int = 0
    bytes_read: int = 0
    is_cut: bool = False
    is_shorter: bool = False
    doubled: int = 0
    error: EtlError | None = None

    def note_retry(self) -> None:
        """Count one further try of a batch."""
        self.retried += 1


class Watch(Protocol):
    """Displays a load while it works."""

    def watching(self, stream: Stream, progress: Sequence[Progress]) -> AbstractContextManager[None]:
        """Watch a source: its counts for each target change in `progress` until this context ends."""

    def passed(self, summary: Summary) -> None:
        """Count a source that is loaded together with others, or is loaded already."""

    def moved(self) -> None:
        """Look at the counts, after each batch."""

    def refreshing(self, done: Iterable[RefreshResult]) -> Iterator[RefreshResult]:
        """Yield the aggregates when each is refreshed, and display them."""


class Unwatched:
    """Displays nothing."""

    @contextmanager
    def watching(self, stream: Stream, progress: Sequence[Progress]) -> Iterator[None]:  # noqa: ARG002 - see Watch
        """Let a source be loaded."""
        yield

    def passed(self, summary: Summary) -> None:
        """Do nothing."""

    def moved(self) -> None:
        """Do nothing."""

    def refreshing(self, done: Iterable[RefreshResult]) -> Iterator[RefreshResult]:
        """Yield the aggregates when each is refreshed."""
        yield from done


def _document_members(dataset: Dataset) -> DocumentMembers | None:
    """Return a collector of the members of the document that columns take, if there are any."""
    paths = dataset.document_paths
    return DocumentMembers(tuple(map(str, parse(path).steps)) for path in paths) if paths else None


@dataclass(frozen=True, kw_only=True)
class Load:
    """The load of a command, which all its sources share: the database, the options, the targets in their order.

    `watch` belongs to the caller: the load calls it when a source begins and after each batch.
    """

    database: Database
    settings: LoadSettings
    targets: Sequence[Target]
    stop: Stop
    logs: Logs = field(default_factory=Logs)
    watch: Watch = field(default_factory=Unwatched)

    @property
    def is_shared(self) -> bool:
        """Whether the workers of an executor load each source, however small it is and however many they are."""
        if self.settings.executor == "local" or self.settings.dry_run:
            return False
        return not any(target.is_in_order for target in self.targets)

    def worker_count(self, source_bytes: int | None) -> int:
        """Return how many processes load a source: the option, else what the source's size and the cores suggest."""
        if self.settings.dry_run or any(target.is_in_order for target in self.targets):
            return 1
        if self.settings.workers is not None:
            return self.settings.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        most = max(1, min(MAX_DEFAULT_WORKERS, cores - 1))
        return most if source_bytes is None or self.is_shared else max(1, min(most, source_bytes // BYTES_PER_WORKER))

    def cut_options(
        self, target: Target, prover: Prover | None = None, expected: Callable[[int], Sequence[Mark]] | None = None
    ) -> CutOptions:
        """Return how a target's records are cut from a source."""
        settings = self.settings
        return CutOptions(
            format=settings.format,
            records_path=target.records_path,
            batch_rows=min(settings.batch_rows, settings.limit or settings.batch_rows),
            first_rows=FIRST_BATCH_ROWS,
            max_record_bytes=settings.max_record_bytes,
            prover=prover,
            expected=expected,
            outside=_document_members(target.dataset),
        )

    def dataset_of(self, target: Target, stream: Stream) -> Dataset:
        """Return the definition of a target for a source: constants of the source and of its document are in it.

        Raises UsageError and SourceError where a member of the document cannot be read.
        """
        dataset = target.dataset.of_source(stream.source.name)
        if not dataset.document_paths:
            return dataset
        from etl.ingestion.pipeline.document_members import resolved  # noqa: PLC0415 - few definitions name such members

        return resolved(dataset, stream, self.cut_options(target))

    def request(self, source: Source, target: Target) -> AttemptRequest:
        """Return this command as an attempt enters it in the ledger."""
        return AttemptRequest(source=source.name, folder=self.folder, options=self.options(source, target))

    def options(self, source: Source, target: Target) -> str:
        """Return the options without which the same command would not continue the run, as a shell takes them."""
        settings = self.settings
        options = {
            "--mode": settings.mode,
            "--records": target.records,
            "--failed-dir": None if str(settings.failed_dir) == "failed" else printable_path(settings.failed_dir),
            "--format": None if settings.format == "auto" else settings.format,
        }
        options |= {f"--{name.replace('_', '-')}": policy for name, policy in settings.policies.items()}
        words = [word for name, value in options.items() if value is not None for word in (name, value)]
        words += ["--atomic"] if settings.atomic else []
        words += ["--allow-empty"] if settings.allow_empty else []
        words += ["--encoding", source.encoding] if source.encoding != "auto" else []
        return shlex.join(words)

    @property
    def folder(self) -> str | None:
        """The working folder, where it still exists."""
        try:
            return printable_path(Path.cwd())
        except OSError:
            return None
