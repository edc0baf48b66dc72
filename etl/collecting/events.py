"""The body of a request -> its events, one per line. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import msgspec

from etl.ingestion.constants import LAYER_LEVELS, WHOLE_RECORD_BYTES
from etl.ingestion.framing.nesting import is_nested_deeper
from etl.ingestion.values import LINE_ENDS

MAX_EVENT_BYTES = WHOLE_RECORD_BYTES
"""A larger event belongs in a file."""

MOST_EVENTS = 100_000
"""Events of one request at most: the smallest ones cost many times their bytes in memory."""

_AT_BYTE = re.compile(r"\(byte (\d+)\)")
_HALF_PAIR = re.compile(rb"(?<!\\)(?:\\\\)*(\\u[dD][89abAB][0-9a-fA-F]{2})(?!\\u)")
"""The first half of a surrogate pair, without an escape after it. The decoder calls its text truncated."""
_BLANKS = b" \t\r\n"

_value = msgspec.json.Decoder(msgspec.Raw)
_array = msgspec.json.Decoder(list[msgspec.Raw])


class NotEventsError(Exception):
    """A body is not JSON, or has a value that is no object; `byte` is where, from 0, if that is known."""

    def __init__(self, reason: str, byte: int | None = None) -> None:
        super().__init__(reason if byte is None else f"{reason}, at byte {byte}")
        self.byte = byte


class TooLargeError(Exception):
    """An event is larger than a stream takes."""


@dataclass(frozen=True, kw_only=True)
class Events:
    """Events as lines, each with its line feed, and the length of each line."""

    lines: bytes = field(repr=False)
    lengths: Sequence[int]

    @property
    def offsets(self) -> list[int]:
        """The byte at which each event begins in the lines."""
        return list(accumulate(self.lengths, initial=0))[:-1]


def events_of(body: bytes) -> Events:
    """Return the events of a body: one object, an array of objects, or objects one after the other, as in NDJSON.

    Raises NotEventsError, or TooLargeError.
    """
    try:
        body.isascii() or body.decode()
    except UnicodeDecodeError as error:
        raise NotEventsError("expected UTF-8", error.start) from None
    start = len(body) - len(body.lstrip(_BLANKS))
    if start == len(body):
        raise NotEventsError("expected an object, an array or lines of objects, got nothing", start)
    values = _decoded(body) if body[start : start + 1] == b"[" else _lines(body)
    if len(values) > MOST_EVENTS:
        raise TooLargeError(f"a request has at most {MOST_EVENTS:,} events: send several")
    lines = [bytes(value) for value in values]
    if b"\n" in body or b"\r" in body:
        lines = [_line(line) for line in lines]
    for number, line in enumerate(lines, 1):
        if not line.startswith(b"{"):
            raise NotEventsError(f"expected an object, and value {number} is none", _place(body, values, number))
        if len(line) > MAX_EVENT_BYTES:
            raise TooLargeError(f"event {number} has more than {MAX_EVENT_BYTES:,} bytes: load it from a file")
        if len(line) > 2 * LAYER_LEVELS and _has_levels(line):
            raise TooLargeError(f"event {number} is nested deeper than {LAYER_LEVELS} levels: load it from a file")
    return Events(lines=b"\n".join([*lines, b""]), lengths=[len(line) + 1 for line in lines])


def _decoded(body: bytes) -> Sequence[msgspec.Raw]:
    try:
        return _array.decode(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _fault(error, body) from None


def _lines(body: bytes) -> Sequence[msgspec.Raw]:
    try:
        return _value.decode_lines(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _fault(error, body) from None


def _fault(error: Exception, body: bytes) -> NotEventsError:
    """Return the fault of a body, without a word of its content."""
    if isinstance(error, RecursionError):
        return NotEventsError("the JSON is nested too deep")
    found = _AT_BYTE.search(str(error))
    if "truncated" in str(error):
        half = _HALF_PAIR.search(body)
        if half is not None:
            return NotEventsError("expected JSON, and half of a surrogate pair is none", half.start(1))
        return NotEventsError("the JSON ends too early", len(body))
    return NotEventsError("expected JSON", int(found[1]) if found else None)


def _has_levels(line: bytes) -> bool:
    """Return whether an event has too many levels."""
    return line.count(b"[") + line.count(b"{") > LAYER_LEVELS and is_nested_deeper(line, LAYER_LEVELS)


def _line(line: bytes) -> bytes:
    """Return a value on one line: a line end in JSON is between two tokens."""
    return line.translate(LINE_ENDS) if b"\n" in line or b"\r" in line else line


def _place(body: bytes, values: Sequence[msgspec.Raw], number: int) -> int:
    """Return the byte at which a value begins."""
    at = 0
    for value in values[:number]:
        at = body.find(bytes(value), at) + len(bytes(value))
    return at - len(bytes(values[number - 1]))
