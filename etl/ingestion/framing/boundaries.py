"""Where a JSON value begins and ends in a text. Pure; the one place that decides what JSON is (RFC 8259).

Bytes are looked at as latin-1 text: then one character is one byte, every offset is exact, and the bytes of
UTF-8 can stand only inside strings, where the scanner lets them pass.
"""

import json
import re
from codecs import utf_8_decode
from collections.abc import Iterator
from itertools import accumulate

from etl.ingestion.constants import MAX_NESTING
from etl.ingestion.values import Piece, Span

_UTF8_BYTES = 1 << 15
"""Checked at once: a longer text costs more than its characters, for the processor's cache is left."""

_BLANK = re.compile(r"[ \t\n\r]*")

# A token that the end of the text cut in two; the scanner names its first character that it cannot read.
_CUT_TOKEN = re.compile(r"|-|t(ru?)?|f(a(ls?)?)?|n(ul?)?|\.|[eE][+-]?|u[0-9a-fA-F]{0,4}")

# Possessive: a string of many megabytes leaves nothing behind to come back to.
_STRING_OR_BRACKET = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|([\[\]{}])')
_OPENS, _CLOSES, _RETURNS = b"{}\r"
_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1, "": 0}


class NotJSON(ValueError):
    """No JSON value begins here; `position` is the character at fault.

    `cut_off`: it is JSON up to the end of the text, and more text could make it a value.
    """

    def __init__(self, reason: str, position: int, *, cut_off: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position
        self.cut_off = cut_off


class _Constant(ValueError):
    """NaN or an infinity, which Python's decoder takes and JSON does not know."""


def _refuse(name: str) -> None:
    raise _Constant(f"{name} is not JSON")


def _ignore(_digits: str) -> None:
    """Build no number: converting thousands of digits would cost more than finding where they end."""


_scan = json.JSONDecoder(parse_int=_ignore, parse_float=_ignore, parse_constant=_refuse).raw_decode


def is_utf8(data: bytes) -> bool:
    """Tell whether bytes are UTF-8."""
    if data.isascii():
        return True
    view, at = memoryview(data), 0
    try:
        while at < len(data):
            end = at + _UTF8_BYTES
            at += utf_8_decode(view[at:end], "strict", end >= len(data))[1]
    except UnicodeDecodeError:
        return False
    return True


def skip_blank(text: str, position: int) -> int:
    """Return the first position from `position` on that holds no JSON white space."""
    match = _BLANK.match(text, position)
    return match.end() if match else position


def value_end(text: str, start: int) -> int:
    """Return the position behind the JSON value that begins at `start`.

    Raises NotJSON, also for a value that is nested deeper than MAX_NESTING.
    """
    try:
        end: int = _scan(text, start)[1]
    except json.JSONDecodeError as error:
        cut_off = error.msg.startswith("Unterminated string") or bool(_CUT_TOKEN.fullmatch(text, error.pos))
        raise NotJSON(error.msg.lower().removesuffix(" at"), error.pos, cut_off=cut_off) from None
    except _Constant as error:
        raise NotJSON(str(error), start) from None
    except RecursionError:
        raise _too_deep(start) from None
    # Counting is cheap, and nearly always tells that there is no need to look closer.
    has_many = text.count("[", start, end) + text.count("{", start, end) > MAX_NESTING
    if has_many and nesting(text[start:end]) > MAX_NESTING:
        raise _too_deep(start)
    return end


def member_value(text: str, start: int) -> int:
    """Return where the value begins of the member of an object whose key begins at `start`.

    Raises NotJSON.
    """
    if text[start : start + 1] != '"':
        raise NotJSON("expecting property name enclosed in double quotes", start, cut_off=start == len(text))
    colon = skip_blank(text, value_end(text, start))
    if text[colon : colon + 1] != ":":
        raise NotJSON("expecting ':' delimiter", colon, cut_off=colon == len(text))
    return skip_blank(text, colon + 1)


def _too_deep(start: int) -> NotJSON:
    return NotJSON(f"objects or arrays are nested deeper than {MAX_NESTING}", start)


def nesting(value: str) -> int:
    """Return how deep the objects and arrays of a JSON value are nested."""
    return max(accumulate(_STEPS[bracket] for bracket in _STRING_OR_BRACKET.findall(value)), default=0)


def is_nested_deeper(value: bytes, most: int) -> bool:
    """Tell whether the objects and arrays of a JSON value are nested deeper than `most`."""
    # Counting is cheap, and nearly always tells that there is no need to look closer.
    return value.count(b"[") + value.count(b"{") > most and nesting(value.decode("latin-1")) > most


def may_go_on(text: str, start: int, end: int) -> bool:
    """Tell whether the value between `start` and `end` is a number that more text could make longer."""
    return text[start] not in '{["' and _CUT_TOKEN.fullmatch(text, end) is not None


def line_span(text: str, start: int, line_end: int) -> Span:
    """Return the record that begins at `start` on a line: one JSON value, or all of a line that is no JSON."""
    line = text[start:line_end].rstrip(" \t\r")
    try:
        return Span(start, start + value_end(line, 0), not_an_object(line[0]))
    except NotJSON as error:
        reason = "the value does not end on its line" if error.cut_off else error.reason
        return Span(start, start + len(line), f"not JSON: {reason}, at character {error.position + 1}")


def are_lines(data: bytes, count: int) -> bool:
    """Tell that lines which decode as so many objects one after the other hold one each; False also for others.

    A `}` ends a line and a `{` begins the next, which within a JSON value never follow one another: each line holds
    at least one of them. To search is faster than to count.
    """
    find = data.find
    at = find(b"\n")
    is_crlf = data[at - 1 : at] == b"\r"
    ahead = 2 if is_crlf else 1
    try:
        while at >= 0:
            if data[at - ahead] != _CLOSES or data[at + 1] != _OPENS or (is_crlf and data[at - 1] != _RETURNS):
                return False
            count -= 1
            at = find(b"\n", at + 1)
    except IndexError:  # A line ends at either end of the data.
        return False
    return count == 1


def piece_spans(piece: Piece) -> Iterator[Span]:
    """Yield where each record of a piece stands in it, in order."""
    text = piece.data.decode("latin-1")
    position = skip_blank(text, 0)
    while position < len(text):
        if piece.shape in {"lines", "keyed"}:
            newline = text.find("\n", position)
            span = line_span(text, position, newline if newline >= 0 else len(text))
        else:
            begin = member_value(text, position) if piece.shape == "members" else position
            span = Span(position, value_end(text, begin), not_an_object(text[begin]))
        yield span
        position = skip_blank(text, span.end)
        if piece.shape in {"array", "members"} and position < len(text):
            position = skip_blank(text, position + 1)


def not_an_object(first: str) -> str:
    """Return why a JSON value that begins with this character is no record, or nothing."""
    return "" if first == "{" else "expected an object, got another JSON value"
