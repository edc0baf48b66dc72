"""`--direct`: no buffer. Each group of requests is loaded at once, and acknowledged after the commit.

All requests that arrive during a load are the next group. The events are a stream like that of a buffer: its position,
the keys of requests and the rows commit together.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import structlog

from etl import datasets
from etl.collecting import segments
from etl.collecting.buffers import Accepted, Buffered, Keep, Limits, OtherBodyError, RefusedError
from etl.collecting.events import Events
from etl.collecting.groups import GroupWriter, Request
from etl.collecting.loading import StreamLoader
from etl.collecting.reading import SpoolReader
from etl.database.connecting import Database
from etl.errors import BusyError, EtlError, UsageError
from etl.ingestion.failed_store.store import FailedStore
from etl.ingestion.ledger.streams import EventKey, KeyTakenError
from etl.ingestion.pipeline.freshening import Refresher
from etl.ingestion.pipeline.job import Load, Stop
from etl.ingestion.pipeline.targets import Target
from etl.settings import CollectSettings, LoadSettings, RetrySettings

GROUP_BYTES = 2 << 20
_AWAY_SECONDS = 0.2
_TRIES = 3
_FORGET_SECONDS = 60.0
_RETRIES = RetrySettings(attempts=3, base_seconds=0.05, cap_seconds=0.5)
"""A client waits for the answer, so it is refused soon and tries again itself."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, kw_only=True)
class DirectStore:
    """No buffer: what the groups of all datasets need to be loaded."""

    database: Database
    config_dir: Path
    settings: LoadSettings
    failed: FailedStore
    refresher: Refresher

    name = "none"

    def require_usable(self) -> None:
        """Do nothing: the database may come later."""

    def left_open(self) -> list[str]:
        """Return no dataset: nothing waits."""
        return []

    def opened(self, dataset: str, limits: Limits) -> "Direct":
        """Return what loads the events of a dataset."""
        settings = replace(self.settings, retries=_RETRIES)
        target = Target.of(datasets.find(dataset, self.config_dir), None, settings)
        load = Load(database=self.database, settings=settings, targets=[target], stop=Stop())
        keep = Keep(seconds=limits.key_seconds, bytes=0)

        def loader() -> StreamLoader:
            return StreamLoader(load, target, self.reader(), self.failed, keep)

        return Direct(dataset, loader, self.refresher, limits)

    def reader(self) -> "NoReader":
        """Return a reader that finds nothing."""
        return NoReader()


@contextmanager
def running(
    database: Database, config_dir: Path, settings: CollectSettings, load_settings: LoadSettings
) -> Iterator[DirectStore]:
    """Yield what loads events at once, and refresh the aggregates until the context ends.

    Raises UsageError with a buffer, or when the failed store cannot be used.
    """
    if settings.buffer != "spool" or settings.part != "all":
        raise UsageError("--direct has no buffer, so it expects neither --buffer nor --part")
    left = [stream.name for name in SpoolReader(settings.spool).datasets() for stream in _left(settings.spool, name)]
    if left:
        hint = "etl collect --status; a collector without --direct loads what waits"
        log.warning("spool_not_loaded", spool=str(settings.spool), streams=left, hint=hint)
    refresher = Refresher(database, config_dir, load_settings.retries, settings.refresh_seconds)
    with FailedStore(load_settings.failed_dir) as failed, refresher:
        failed.prepare()
        yield DirectStore(
            database=database, config_dir=config_dir, settings=load_settings, failed=failed, refresher=refresher
        )


def _left(spool: Path, dataset: str) -> Sequence[Buffered]:
    """Return the streams of a spool that a collector with a buffer has left; perhaps all of them is loaded."""
    return SpoolReader(spool).streams(dataset)


class NoReader:
    """Reads no buffer."""

    def datasets(self) -> list[str]:
        """Return no dataset."""
        return []

    def streams(self, dataset: str) -> Sequence[Buffered]:  # noqa: ARG002 - the protocol of readers
        """Return no stream."""
        return []

    def close(self) -> None:
        """Do nothing."""


class Direct(GroupWriter):
    """Loads the events of one dataset, a group at a time. `today` returns the day (UTC) as YYYYMMDD."""

    is_broken = False
    bytes = 0
    group_bytes = GROUP_BYTES

    def __init__(
        self,
        dataset: str,
        new_loader: Callable[[], StreamLoader],
        refresher: Refresher,
        limits: Limits,
        today: Callable[[], str] = lambda: f"{datetime.now(UTC):%Y%m%d}",
    ) -> None:
        super().__init__(limits)
        self._dataset = dataset
        self._new_loader = new_loader
        self._refresher = refresher
        self._today = today
        self._loader: StreamLoader | None = None
        self._day = self._stream = ""
        self._refusal: RefusedError | None = None
        self._refused_until = 0.0
        self._reported = ""
        self._forgot_at = 0.0
        self._start(f"etl-direct-{dataset}")

    def _require_open(self) -> None:
        if self._refusal is not None and time.monotonic() < self._refused_until:
            raise RefusedError(str(self._refusal), self._refusal.seconds)
        super()._require_open()

    # The thread

    def _write(self, requests: Sequence[Request]) -> None:
        """Load one group, and acknowledge its requests when it is committed."""
        try:
            places = self._load(requests)
        except EtlError as error:
            self._refuse(requests, error)
            return
        self._reported = ""
        for request, place in zip(requests, places, strict=True):
            request.answer(place)

    def _load(self, requests: Sequence[Request]) -> list[Accepted | OtherBodyError]:
        """Load the events of requests that were not loaded before, and return the places of all."""
        loader = self._ready()
        keys = [request.key for request in requests if request.key is not None]
        for _ in range(_TRIES):
            group = _Group(requests, loader.known_keys(keys) if keys else {})
            if not group.lines:
                return group.places(self._stream, 0)
            try:
                offset = loader.load_now(self._name(), group.lines, group.keys)
            except KeyTakenError:  # Another collector has loaded a request with the same key meanwhile.
                continue
            self._refresher.note(loader.tables)
            return group.places(self._stream, offset)
        raise BusyError("other collectors load requests with the same keys")

    def _name(self) -> str:
        today = self._today()
        if today != self._day:
            self._day, self._stream = today, segments.new_name(self._dataset, today)
        return self._stream

    def _ready(self) -> StreamLoader:
        if self._loader is None:
            self._loader = self._new_loader()
        if time.monotonic() - self._forgot_at > _FORGET_SECONDS:
            self._loader.forget_keys(self._limits.key_seconds)
            self._forgot_at = time.monotonic()
        return self._loader

    def _refuse(self, requests: Sequence[Request], error: EtlError) -> None:
        """Acknowledge nothing. Events of which the commit is in doubt may be loaded; their client may repeat."""
        if str(error) != self._reported:
            self._reported = str(error)
            log.warning("loading_waits", dataset=self._dataset, reason=str(error), hint=error.hint)
        if isinstance(error, BusyError):
            refusal = RefusedError("another command works on the dataset", 1)
        elif isinstance(error, UsageError):
            refusal = RefusedError("the database does not take the events of this dataset", 30)
        else:
            refusal = RefusedError("the database cannot be reached now", 5)
        if not isinstance(error, BusyError):
            self._end()
        with self._news:
            self._refusal, self._refused_until = refusal, time.monotonic() + _AWAY_SECONDS
        self._refuse_all(requests, refusal)

    def _end(self) -> None:
        if self._loader is not None:
            self._loader.close()
            self._loader = None


class _Group:
    """Requests, and what of them has to be loaded: not what an earlier request with the same key has sent."""

    def __init__(self, requests: Sequence[Request], known: Mapping[str, EventKey]) -> None:
        self._requests = requests
        self._known = known
        self._own: dict[str, EventKey] = {}
        self._starts: list[int | None] = []
        parts: list[bytes] = []
        at = 0
        for request in requests:
            events = request.events
            if request.key is not None and (request.key in known or request.key in self._own):
                self._starts.append(None)
                continue
            if request.key is not None:
                lengths = list(events.lengths)
                self._own[request.key] = EventKey(request.key, request.body, "", at, lengths)
            self._starts.append(at)
            parts.append(events.lines)
            at += len(events.lines)
        self.lines = b"".join(parts)

    @property
    def keys(self) -> list[EventKey]:
        """The keys of the requests, with offsets from the beginning of the group."""
        return list(self._own.values())

    def places(self, stream: str, offset: int) -> list[Accepted | OtherBodyError]:
        """Return the places of all requests, when the lines are loaded at an offset of a stream."""
        return [
            self._earlier(request, stream, offset)
            if start is None
            else Accepted(stream=stream, offsets=[offset + start + at for at in request.events.offsets])
            for request, start in zip(self._requests, self._starts, strict=True)
        ]

    def _earlier(self, request: Request, stream: str, offset: int) -> Accepted | OtherBodyError:
        key = request.key or ""
        found = self._known.get(key) or self._own[key]
        if found.body != request.body:
            return OtherBodyError()
        first = found.offset if found.stream else offset + found.offset
        offsets = [first + at for at in Events(lines=b"", lengths=found.lengths).offsets]
        return Accepted(stream=found.stream or stream, offsets=offsets, is_repeat=True)
