"""What a load is asked to do, for each dataset of its sources, how far an attempt came, and the wish to stop it."""

import hashlib
import os
import shlex
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from msgspec.structs import replace

from etl.database.connecting import Database, Session
from etl.datasets import Dataset
from etl.errors import EtlError, InterruptedByUserError
from etl.ingestion.constants import BYTES_PER_WORKER, FIRST_BATCH_ROWS, MAX_DEFAULT_WORKERS
from etl.ingestion.framing.pieces import CutOptions
from etl.ingestion.ledger.runs import Run
from etl.ingestion.sources.stream import Stream
from etl.ingestion.values import LoadedRange, printable_path
from etl.logs import Logs
from etl.precalculation.refresh import Refreshed
from etl.settings import LoadSettings, Mode

# How long a signal may wait to be seen: Python goes on sleeping after it.
LOOK_SECONDS = 0.1


class Stop:
    """The wish to stop, set by a signal and asked for before each batch."""

    def __init__(self) -> None:
        self.signal_number = 0
        self._is_reading = False

    def note(self, number: int) -> None:
        """Take a signal: the first is the wish to stop, and ends a wait for the source; the second raises at once."""
        if self.signal_number:
            raise KeyboardInterrupt  # psycopg cancels what the server is doing and rolls back
        self.signal_number = number
        if self._is_reading:
            self.check()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let a signal interrupt what is done here: to wait for the source, while no batch is in hand.

        Raises InterruptedByUserError.
        """
        self._is_reading = True
        try:
            self.check()
            yield
        finally:
            self._is_reading = False

    def check(self) -> None:
        """Raise InterruptedByUserError when a signal came."""
        if self.signal_number:
            raise InterruptedByUserError(
                f"stopped by signal {self.signal_number}",
                signal_number=self.signal_number,
                hint="run the same command to go on",
            )

    def at_once(self) -> InterruptedByUserError:
        """Return the error that a second signal ends the command with; its exit code is that of the first."""
        return InterruptedByUserError(
            "stopped at once", signal_number=self.signal_number, hint="run the same command to go on"
        )

    def wait(self, seconds: float) -> None:
        """Sleep; raise InterruptedByUserError soon after a signal came."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.check()
            time.sleep(min(left, LOOK_SECONDS))
        self.check()


@dataclass(kw_only=True)
class Progress:
    """The run that goes on and what the attempt counted itself, in records and bytes; the ledger must agree.

    `entered` are the records of the batches that it entered, `loaded` and `failed` some of these; `rejected` counts
    over all attempts of the run. `is_cut` tells that a limit ended it, and the source may hold more; `error` is what
    ended it although the other datasets of the source went on.
    """

    run: Run | None = None
    read: int = 0
    skipped: int = 0
    entered: int = 0
    loaded: int = 0
    failed: int = 0
    rejected: int = 0
    retried: int = 0
    bytes_read: int = 0
    is_cut: bool = False
    error: EtlError | None = None

    def note_retry(self) -> None:
        """Count one further try of a batch."""
        self.retried += 1


class Watch(Protocol):
    """Looks at a load while it goes on."""

    def watching(self, stream: Stream, progress: Sequence[Progress]) -> AbstractContextManager[None]:
        """Watch a source: what is counted of it for each dataset changes in `progress` until this ends."""

    def moved(self) -> None:
        """Look at what is counted, behind each batch."""

    def refreshing(self, done: Iterable[Refreshed]) -> Iterator[Refreshed]:
        """Yield the aggregates as they are done, and look at them."""


class Unwatched:
    """Looks away."""

    @contextmanager
    def watching(self, stream: Stream, progress: Sequence[Progress]) -> Iterator[None]:  # noqa: ARG002 - see Watch
        """Let a source be loaded."""
        yield

    def moved(self) -> None:
        """Do nothing."""

    def refreshing(self, done: Iterable[Refreshed]) -> Iterator[Refreshed]:
        """Yield the aggregates as they are done."""
        yield from done


@dataclass(frozen=True, kw_only=True)
class Job:
    """What all sources of one command share for one dataset; for another, dataset and records path differ alone."""

    dataset: Dataset
    database: Database
    settings: LoadSettings
    stop: Stop
    logs: Logs = field(default_factory=Logs)
    watch: Watch = field(default_factory=Unwatched)

    @property
    def policed(self) -> Dataset:
        """The definition with the policies asked for in place of its own."""
        return replace(self.dataset, **self._policies_asked)

    @property
    def _policies_asked(self) -> dict[str, str]:
        asked = {name: getattr(self.settings, name) for name in ("on_nul", "on_duplicate", "on_unknown")}
        return {name: policy for name, policy in asked.items() if policy}

    @property
    def is_in_order(self) -> bool:
        """Whether the records of a source have to come in one after the other, for the first of a key counts."""
        return self.policed.on_duplicate in {"first", "reject"}

    @property
    def mode(self) -> Mode:
        """The mode asked for, else the definition's."""
        return self.settings.mode or self.dataset.mode

    def crew_size(self, source_bytes: int | None) -> int:
        """Return how many processes load a source: as many as asked for, else what its size and the cores suggest."""
        if self.is_in_order:
            return 1
        if self.settings.workers is not None:
            return self.settings.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        most = max(1, min(MAX_DEFAULT_WORKERS, cores - 1))
        return most if source_bytes is None else max(1, min(most, source_bytes // BYTES_PER_WORKER))

    @property
    def is_atomic(self) -> bool:
        """Whether all of a source becomes visible at once."""
        return self.settings.atomic or self.mode == "replace"

    @property
    def records_path(self) -> str:
        """The path of a record asked for, else the definition's."""
        return self.dataset.records if self.settings.records is None else self.settings.records

    def how(self, known: Mapping[int, LoadedRange]) -> CutOptions:
        """Return how the records of the dataset are cut out of a source of which these ranges are known."""
        return CutOptions(
            format=self.settings.format,
            records_path=self.records_path,
            batch_rows=min(self.settings.batch_rows, self.settings.limit or self.settings.batch_rows),
            first_rows=FIRST_BATCH_ROWS,
            known=known,
            max_record_bytes=self.settings.max_record_bytes,
        )

    @property
    def options(self) -> str:
        """The options without which the same command would not go on with the run, as a shell takes them."""
        given = {"--mode": self.settings.mode, "--records": self.settings.records, "--failed-dir": None}
        if self.settings.format != "auto":
            given["--format"] = self.settings.format
        if str(self.settings.failed_dir) != "failed":
            given["--failed-dir"] = printable_path(self.settings.failed_dir)
        given |= {f"--{name.replace('_', '-')}": policy for name, policy in self._policies_asked.items()}
        words = [word for name, value in given.items() if value is not None for word in (name, value)]
        words += ["--atomic"] if self.settings.atomic else []
        words += ["--allow-empty"] if self.settings.allow_empty else []
        return shlex.join(words)

    @property
    def folder(self) -> str | None:
        """The working folder, where there is one still."""
        try:
            return printable_path(Path.cwd())
        except OSError:
            return None

    def definition_hash(self, encoding: str) -> str:
        """Return a digest of all that decides which rows a record becomes of a source in this encoding."""
        text = f"{self.policed.hash} {self.records_path} {self.mode}"
        if encoding != "auto":
            text += f" {encoding}"
        return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, kw_only=True)
class Part:
    """What one source brings to one dataset: the job, the session that holds the source for it, and how far it came."""

    job: Job
    session: Session
    progress: Progress = field(default_factory=Progress)
