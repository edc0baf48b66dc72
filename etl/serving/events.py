"""Events that the service takes with `--collect`: what answers their requests is given to it by the command."""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

PREFIX = "/v1/events/"
ROUTE = "/v1/events/{name}"


@dataclass(frozen=True, kw_only=True)
class Waiting:
    """The events of a stream that are accepted and not loaded; `seconds` is the age of the oldest."""

    stream: str
    dataset: str
    events: int
    bytes: int
    seconds: float


class Events(Protocol):
    """Answers `POST /v1/events/DATASET` and `GET /v1/events/PLACE` of those who may."""

    @property
    def broken(self) -> list[str]:
        """The datasets that take no events until the next start."""

    def metrics(self) -> str:
        """Return the metrics of the events in the text format."""

    def waiting(self, loaded_to: Mapping[str, int]) -> Iterable[Waiting]:
        """Return what waits in each stream, by the byte up to which each is loaded."""

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Callable[[], Awaitable[MutableMapping[str, Any]]],
        send: Callable[[MutableMapping[str, Any]], Awaitable[None]],
    ) -> None:
        """Answer a request."""


OpenEvents: TypeAlias = Callable[[], AbstractContextManager[Events]]
"""Begins to take events, with a process that loads them; both end with the context."""
