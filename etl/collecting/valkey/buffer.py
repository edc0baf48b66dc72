"""Events in a stream of a Redis or Valkey server, which is durable before it answers: for replicas without a disk.

All requests that arrive during a write are the next group: one script on the server. The offset of an event is given
there, so that any number of collectors write one stream.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime

import msgspec
import structlog
from redis.exceptions import ResponseError

from etl.collecting import segments
from etl.collecting.buffers import Accepted, Limits, OtherBodyError, RefusedError
from etl.collecting.events import Events
from etl.collecting.groups import GroupWriter, Request
from etl.collecting.valkey.link import AwayError, Link
from etl.collecting.valkey.scripts import ACCEPT, DATASETS, keys_of, prefix_of
from etl.errors import UsageError

ENTRY_BYTES = 1 << 20
_AWAY_SECONDS = 0.2
_LEAST_KEY_SECONDS = 600.0

log = structlog.get_logger(__name__)


class ValkeyBuffer(GroupWriter):
    """Writes the events of one dataset. `today` returns the day (UTC) as YYYYMMDD."""

    is_broken = False

    def __init__(
        self,
        dataset: str,
        link: Link,
        limits: Limits,
        today: Callable[[], str] = lambda: f"{datetime.now(UTC):%Y%m%d}",
    ) -> None:
        super().__init__(limits)
        self._dataset = dataset
        self._link = link
        self._today = today
        self._away_until = 0.0
        self._away = RefusedError("")
        self._reported = ""
        self.bytes = 0
        self._start(f"etl-valkey-{dataset}")

    def _require_open(self) -> None:
        if time.monotonic() < self._away_until:
            raise RefusedError(str(self._away), self._away.seconds)
        super()._require_open()

    # The thread

    def _write(self, requests: Sequence[Request]) -> None:
        """Write one group, and acknowledge its requests when the server has."""
        try:
            stream, self.bytes, places = self._accept(requests)
        except (AwayError, UsageError, ResponseError) as error:
            self._refuse(requests, error)
            return
        self._reported = ""
        for request, place in zip(requests, places, strict=True):
            request.answer(_place(request, stream.decode(), place))

    def _accept(self, requests: Sequence[Request]) -> tuple[bytes, int, list[int | bytes]]:
        self._link.connect()
        day, limits = self._today(), self._limits
        prefix, proposed = prefix_of(self._dataset), segments.new_name(self._dataset, day)
        key_ms = round(1000 * max(limits.key_seconds, _LEAST_KEY_SECONDS))
        names = (prefix, self._dataset, day, proposed, self._link.server)
        arguments: list[str | bytes | int] = [*names, limits.most_bytes, key_ms, ENTRY_BYTES]
        for request in requests:
            parts = [*_parts(request.events.lines)]
            pairs = [each for part in parts for each in (part, part.count(b"\n"))]
            lengths = msgspec.json.encode(request.events.lengths) if request.key is not None else b""
            arguments += [request.key or "", request.body, lengths, len(parts), *pairs]
        found: tuple[bytes, int, list[int | bytes]] = self._link.run(
            ACCEPT, (*keys_of(self._dataset), DATASETS), arguments
        )
        return found

    def _refuse(self, requests: Sequence[Request], error: Exception) -> None:
        """Acknowledge nothing. Events of which the answer was lost may be stored; their client is asked to repeat."""
        refusal = _refusal(error)
        if str(error) != self._reported:
            self._reported = str(error)
            hint = error.hint if isinstance(error, UsageError) else "events are accepted again when it is over"
            log.error("buffer_refuses", dataset=self._dataset, reason=_said(error), hint=hint)
        with self._news:
            self._away = refusal
            self._away_until = time.monotonic() + _AWAY_SECONDS
        self._refuse_all(requests, refusal)

    def _end(self) -> None:
        self._link.close()


def _parts(lines: bytes) -> Iterator[bytes]:
    """Yield whole lines, about as many as a group in a stream has at most."""
    begin = 0
    while begin < len(lines):
        end = lines.rfind(b"\n", begin, begin + ENTRY_BYTES) + 1 or lines.index(b"\n", begin) + 1
        yield lines[begin:end]
        begin = end


def _place(request: Request, stream: str, place: int | bytes) -> Accepted | OtherBodyError:
    """Return the places of the events of a request, which an earlier one with its key may have sent."""
    if isinstance(place, int):
        return Accepted(stream=stream, offsets=[place + offset for offset in request.events.offsets])
    stream, first, body, lengths = place.decode().split(" ", 3)
    if body != request.body:
        return OtherBodyError()
    offsets = Events(lines=b"", lengths=msgspec.json.decode(lengths, type=list[int])).offsets
    return Accepted(stream=stream, offsets=[int(first) + offset for offset in offsets], is_repeat=True)


def _refusal(error: Exception) -> RefusedError:
    """Return why no event is taken now."""
    if isinstance(error, UsageError):
        return RefusedError("the server of the buffer must be set up anew", 30)
    if str(error).startswith("ETLFULL"):
        return RefusedError("too many events wait to be loaded", 5)
    if "maxmemory" in str(error):
        return RefusedError("the memory of the server of the buffer is full", 5)
    return RefusedError("the server of the buffer takes no events now", 5)


def _said(error: Exception) -> str:
    """Return the reason for the log: the code alone of what the server says, which may quote arguments."""
    return str(error).split(" ", 1)[0] if isinstance(error, ResponseError) else str(error)
