"""The answers of the collector: JSON documents, and problems (RFC 9457), which never quote an event."""

from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

import msgspec

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TITLES = {
    400: "wrong request",
    401: "who are you?",
    403: "not allowed",
    404: "not found",
    405: "wrong method",
    408: "too slow",
    409: "key used before",
    413: "too large",
    415: "wrong type",
    422: "not events",
    429: "too many requests",
    500: "fault of the collector",
    503: "not now",
}


class AnswerError(Exception):
    """Answer a request with a problem; `seconds`: it may come again after so many. `close`: the connection ends."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        seconds: int | None = None,
        close: bool = False,
        members: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.members = {name: value for name, value in (members or {}).items() if value is not None}
        self.headers: dict[str, str] = {}
        if seconds is not None:
            self.headers["Retry-After"] = str(seconds)
        if close:
            self.headers["Connection"] = "close"
        if status == 401:
            self.headers["WWW-Authenticate"] = 'Bearer realm="logistics-etl"'

    @property
    def body(self) -> bytes:
        """The problem as a document."""
        title = _TITLES.get(self.status, "problem")
        known = {"type": "about:blank", "title": title, "status": self.status, "detail": self.detail}
        return msgspec.json.encode(known | self.members)


async def answer(
    send: Send,
    status: int,
    body: bytes,
    headers: Mapping[str, str] | None = None,
    media_type: str = "application/json",
) -> None:
    """Send an answer."""
    names = {"Content-Type": media_type, "Content-Length": str(len(body)), "Cache-Control": "no-store"} | dict(
        headers or {}
    )
    encoded = [(name.lower().encode(), value.encode("latin-1")) for name, value in names.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})


async def refuse(send: Send, error: AnswerError) -> None:
    """Send a problem."""
    await answer(send, error.status, error.body, error.headers, "application/problem+json")
