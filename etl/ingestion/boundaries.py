"""Where a JSON value begins and ends in a text. Pure; the one place that decides what JSON is (RFC 8259).

Bytes are looked at as latin-1 text: then one character is one byte, every offset is exact, and the bytes of
UTF-8 can stand only inside strings, where the scanner lets them pass.
"""

import json
import re
from collections.abc import Iterator

from etl.ingestion.values import Piece, Span

# An error this close to the end of the text may be a token that was cut: -Infinity and \\uXXXX are shorter.
_TOKEN = 12

_BLANK = re.compile(r"[ \t\n\r]*")


class NotJSON(ValueError):
    """No JSON value begins here; `position` is the character at fault.

    `unfinished`: more text could still make it one. `cut_off`: it is JSON up to the end of the text.
    """

    def __init__(self, reason: str, position: int, *, unfinished: bool = False, cut_off: bool = False) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position
        self.unfinished = unfinished
        self.cut_off = cut_off


class _Constant(ValueError):
    """NaN or an infinity, which Python's decoder takes and JSON does not know."""


def _refuse(name: str) -> None:
    raise _Constant(f"{name} is not JSON")


def _ignore(_digits: str) -> None:
    """Build no number: converting thousands of digits would cost more than finding where they end."""


_scan = json.JSONDecoder(parse_int=_ignore, parse_float=_ignore, parse_constant=_refuse).raw_decode


def skip_blank(text: str, position: int) -> int:
    """Return the first position from `position` on that holds no JSON white space."""
    match = _BLANK.match(text, position)
    return match.end() if match else position


def value_end(text: str, start: int) -> int:
    """Return the position behind the JSON value that begins at `start`.

    Raises NotJSON.
    """
    try:
        end: int = _scan(text, start)[1]
    except json.JSONDecodeError as error:
        cut_off = error.msg.startswith("Unterminated string") or error.pos >= len(text)
        unfinished = cut_off or error.pos >= len(text) - _TOKEN
        raise NotJSON(error.msg.lower(), error.pos, unfinished=unfinished, cut_off=cut_off) from None
    except _Constant as error:
        raise NotJSON(str(error), start) from None
    except RecursionError:
        raise NotJSON("objects or arrays are nested too deep", start) from None
    return end


def line_span(text: str, start: int, line_end: int) -> Span:
    """Return the record that begins at `start` on a line: one JSON value, or all of a line that is no JSON."""
    try:
        end = value_end(text, start)
    except NotJSON as error:
        reason, column = error.reason, error.position - start + 1
    else:
        if end <= line_end:
            return Span(start, end, not_an_object(text[start]))
        reason, column = "the value does not end on its line", line_end - start + 1
    end = start + len(text[start:line_end].rstrip(" \t\r"))
    return Span(start, end, f"not JSON: {reason} at character {column}")


def piece_spans(piece: Piece) -> Iterator[Span]:
    """Yield where each record of a piece stands in it, in order."""
    text = piece.data.decode("latin-1")
    position = skip_blank(text, 0)
    while position < len(text):
        if piece.shape == "lines":
            newline = text.find("\n", position)
            span = line_span(text, position, newline if newline >= 0 else len(text))
        else:
            span = Span(position, value_end(text, position), not_an_object(text[position]))
        yield span
        position = skip_blank(text, span.end)
        if piece.shape == "array" and position < len(text):
            position = skip_blank(text, position + 1)


def not_an_object(first: str) -> str:
    """Return why a JSON value that begins with this character is no record, or nothing."""
    return "" if first == "{" else "expected an object, got another JSON value"
