"""Where a JSON value begins and ends in a text. Pure; the one place that decides what JSON is (RFC 8259).

Bytes are scanned as latin-1 text: one character is one byte, every offset is exact, and bytes that are no ASCII occur
inside strings only, where the scanner accepts them.
"""

import json
import re
from codecs import utf_8_decode
from collections.abc import Iterator

import msgspec

from etl.ingestion.constants import LAYER_LEVELS
from etl.ingestion.framing.dialects import NOT_A_NUMBER, Dialect, dialect_at
from etl.ingestion.framing.nesting import bracket_end, layers
from etl.ingestion.values import Piece, PieceShape, Span

_UTF8_BYTES = 1 << 15
"""Bytes that are decoded at a time: more would not fit into the processor's cache, and cost more each."""

_LARGE = 1 << 16
"""A longer value is checked without building it."""

_BLANK = re.compile(r"[ \t\n\r]*")
_BLANK_OR_MARK = re.compile("(?:[ \t\n\r]|\u00ef\u00bb\u00bf)*")
"""A byte-order mark, as latin-1 text, may be before a record where files were joined."""

# A token that the end of the text cut off; the scanner names the first character that it cannot read.
_CUT_TOKEN = re.compile(r"|-|t(ru?)?|f(a(ls?)?)?|n(ul?)?|\.|[eE][+-]?|u[0-9a-fA-F]{0,4}")

# A value that follows a number or a word without a blank begins with a bracket or a quote.
_OF_TOKENS = re.compile(r"[0-9A-Za-z_.+-]")

# It replaces a deeper value where a layer is scanned: a value can follow or precede it only where a value may be.
_EMPTY = "[]"

_OPENS, _CLOSES, _RETURNS = b"{}\r"


class NotJSON(ValueError):
    """No JSON value begins here; `position` is the faulty character.

    `cut_off`: the text is JSON up to its end, and more text could complete a value.
    """

    def __init__(self, reason: str, position: int, *, cut_off: bool = False, dialect: Dialect | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.position = position
        self.cut_off = cut_off
        self.dialect = dialect

    @property
    def sentence(self) -> str:
        """The fault, for a message."""
        return f"not JSON: {self.reason if self.dialect is None else self.dialect.name}"

    @property
    def hint(self) -> str | None:
        """The command that makes JSON of the text, if it is known what it is."""
        return None if self.dialect is None else self.dialect.hint


class _Constant(ValueError):
    """NaN or an infinity, which Python's decoder accepts and JSON does not have."""


def _refuse(name: str) -> None:
    raise _Constant(f"{name} is not JSON")


def _ignore(_digits: str) -> None:
    """Build no number: converting thousands of digits would cost more than finding their end."""


_scan = json.JSONDecoder(parse_int=_ignore, parse_float=_ignore, parse_constant=_refuse).raw_decode


_check = msgspec.json.Decoder(msgspec.Raw).decode


def is_utf8(data: bytes) -> bool:
    """Return whether bytes are UTF-8."""
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
    """Return the first position at or after `position` that is no JSON white space."""
    match = _BLANK.match(text, position)
    return match.end() if match else position


def _record_start(text: str, position: int, shape: PieceShape) -> int:
    """Return the beginning of the next record at or after `position`."""
    match = _BLANK_OR_MARK.match(text, position) if shape in {"lines", "values"} else None
    return match.end() if match else skip_blank(text, position)


def value_end(text: str, start: int) -> int:
    """Return the position after the JSON value that begins at `start`, however deep it is nested.

    Raises NotJSON.
    """
    try:
        end: int = _scan(text, start)[1]
    except json.JSONDecodeError as error:
        raise _not_json(text, error, error.pos) from None
    except _Constant as error:
        raise NotJSON(str(error), start, dialect=NOT_A_NUMBER) from None
    except RecursionError:
        return _deep_end(text, start)
    return end


def _deep_end(text: str, start: int) -> int:
    """Return the position after an object or array that is nested too deep to be scanned as a whole.

    Raises NotJSON.
    """
    cut_off: NotJSON | None = None
    for layer in layers(text, start, LAYER_LEVELS):
        part = layer.text(text, _EMPTY)
        try:
            _scan(part)
        except json.JSONDecodeError as error:
            fault = _not_json(part, error, layer.place(error.pos, _EMPTY))
            if not fault.cut_off or layer.end is not None:
                raise fault from None
            cut_off = fault
        except _Constant as error:
            raise NotJSON(str(error), layer.start, dialect=NOT_A_NUMBER) from None
    if cut_off is not None or layer.end is None:
        raise NotJSON("the value does not end", start, cut_off=True)
    return layer.end


def _not_json(text: str, error: json.JSONDecodeError, position: int) -> NotJSON:
    """Return the fault of a text that the scanner refuses; its place is reported as `position`."""
    cut_off = error.msg.startswith("Unterminated string") or bool(_CUT_TOKEN.fullmatch(text, error.pos))
    dialect = None if cut_off else dialect_at(text, error.pos)
    return NotJSON(error.msg.lower().removesuffix(" at"), position, cut_off=cut_off, dialect=dialect)


def _light_end(text: str, start: int) -> int:
    """Return the end as `value_end` does, without building a large value.

    Raises NotJSON.
    """
    end = bracket_end(text, start) if text[start : start + 1] in {"{", "["} else None
    if end is not None and end - start > _LARGE and is_whole(text[start:end].encode("latin-1")):
        return end
    return value_end(text, start)


def is_whole_record(value: bytes) -> bool:
    """Return whether bytes are one JSON object; False is no proof."""
    return value.startswith(b"{") and is_whole(value)


def is_whole(value: bytes) -> bool:
    """Return whether bytes are one JSON value; False is no proof.

    It is checked without building it, whose memory would be many times that of a large text.
    """
    try:
        _check(value)
    except msgspec.MsgspecError:
        return False
    except RecursionError:
        return _is_deep_value(value.decode("latin-1"))
    return True


def _is_deep_value(text: str) -> bool:
    try:
        return _deep_end(text, 0) == len(text)
    except NotJSON:
        return False


def member_value(text: str, start: int) -> int:
    """Return the beginning of a member's value; the key of the member begins at `start`.

    Raises NotJSON.
    """
    if text[start : start + 1] != '"':
        raise NotJSON("expecting property name enclosed in double quotes", start, cut_off=start == len(text))
    colon = skip_blank(text, value_end(text, start))
    if text[colon : colon + 1] != ":":
        raise NotJSON("expecting ':' delimiter", colon, cut_off=colon == len(text))
    return skip_blank(text, colon + 1)


def may_continue(text: str, start: int, end: int) -> bool:
    """Return whether the value between `start` and `end` is a number that more text could make longer."""
    return text[start] not in '{["' and _CUT_TOKEN.fullmatch(text, end) is not None


def is_joined(text: str, start: int, end: int) -> bool:
    """Return whether a number or a word between `start` and `end` is followed by a character that cannot follow it."""
    return text[start] not in '{["' and _OF_TOKENS.match(text, end) is not None


def line_span(text: str, start: int, line_end: int) -> Span:
    """Return the span of the record that begins at `start`: one JSON value, or the rest of a line that is no JSON."""
    line = text[start:line_end].rstrip(" \t\r")
    if len(line) > _LARGE and is_whole_record(line.encode("latin-1")):
        return Span(start, start + len(line), "")
    try:
        return Span(start, start + value_end(line, 0), not_an_object(line[0]))
    except NotJSON as error:
        reason = "not JSON: the value does not end on its line" if error.cut_off else error.sentence
        return Span(start, start + len(line), f"{reason}, at character {error.position + 1}")


def are_lines(data: bytes, count: int) -> bool:
    """Return whether lines that decode as `count` objects hold one object each; False when it is not certain.

    A `}` ends each line and a `{` begins the next line. Within a JSON value these two never follow each other, so that
    each line holds at least one object. Searching is faster than counting.
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
    """Yield the span of each record of a piece, in order."""
    text = piece.data.decode("latin-1")
    end_of = _light_end if piece.is_heavy else value_end
    position = _record_start(text, 0, piece.shape)
    while position < len(text):
        if piece.shape in {"lines", "keyed"}:
            newline = text.find("\n", position)
            span = line_span(text, position, newline if newline >= 0 else len(text))
        else:
            begin = member_value(text, position) if piece.shape == "members" else position
            span = Span(position, end_of(text, begin), not_an_object(text[begin]))
        yield span
        position = _record_start(text, span.end, piece.shape)
        if piece.shape in {"array", "members"} and position < len(text):
            position = skip_blank(text, position + 1)


def not_an_object(first: str) -> str:
    """Return why a JSON value that begins with this character is no record, or an empty text.

    A text may hold a record as JSON.
    """
    return "" if first in {"{", '"'} else "expected an object, got another JSON value"
