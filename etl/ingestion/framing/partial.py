"""Records so deep or so large that they are not decoded as a whole: some of their values stay text until needed. Pure.

Decoders recurse, and a decoded record takes some 40 times its bytes: both are bounded here.
"""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from itertools import islice
from typing import Any

import msgspec

from etl.ingestion.constants import LAYER_LEVELS, MAX_NESTING, VALUE_BYTES, WHOLE_RECORD_BYTES
from etl.ingestion.framing.boundaries import is_whole, value_end
from etl.ingestion.framing.nesting import BracketScan, bracket_end, first_deeper, is_nested_deeper, layers

INTEGER_DIGITS = 4_300
"""Longer integers become Decimal: int() takes quadratic time, and ijson crashes at Python's limit."""

_FARTHEST = 10**17
"""An exponent out of the range of every type of PostgreSQL, and within that of Decimal."""

_BLANKS = b" \t\r\n"
_WORD = b"NaN"
"""It replaces a value that stays text: Python's decoder asks for its value, and no JSON has it."""

_NULL = msgspec.Raw(b"null")

_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"|[\[{\]}]', re.DOTALL)
_SCALAR = re.compile(rb'"(?:[^"\\]++|\\.)*+"|[^,\]]+', re.DOTALL)
_SEPARATOR = re.compile(rb"[ \t\r\n]*+,")
_CUTS = 16
"""So many places are tried at which a part of an array may end."""


class TooDeep(Exception):
    """A record is nested deeper than it may be."""


def integer(digits: str) -> int | Decimal:
    """Return a JSON integer."""
    return int(digits) if len(digits.removeprefix("-")) <= INTEGER_DIGITS else Decimal(digits)


def decimal(text: str) -> Decimal:
    """Return a JSON number exactly; an exponent that Decimal cannot hold becomes another that is out of range, too."""
    try:
        return Decimal(text)
    except InvalidOperation:
        digits, _, exponent = text.lower().partition("e")
        return Decimal(f"{digits}e{'-' if exponent.startswith('-') else ''}{_FARTHEST}")


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def decoder(constant: Callable[[str], Any] = _refuse) -> json.JSONDecoder:
    """Return a decoder that keeps the digits of numbers, and asks for the values of NaN and infinities."""
    return json.JSONDecoder(parse_int=integer, parse_float=decimal, parse_constant=constant)


_decode = decoder().decode


class Undecoded:
    """An object or array of a deep or large record: its JSON text, of which a part is decoded where it is needed.

    It is no dataclass, because an encoder of JSON would write it as an object.
    """

    def __init__(self, text: bytes) -> None:
        self.text = text

    @property
    def is_array(self) -> bool:
        """Whether it is an array."""
        return self.text.startswith(b"[")

    def decoded(self) -> Any:
        """Return the value; values in it may be undecoded."""
        return _partly(self.text)

    def at(self, step: str | int) -> Any:
        """Return a member or an element, None where there is none."""
        if self.is_array:
            return next(islice(self.elements(), step, None), None) if isinstance(step, int) else None
        try:
            type_ = msgspec.defstruct("Member", [("value", msgspec.Raw, _NULL)], rename={"value": str(step)})
            text = bytes(msgspec.json.decode(self.text, type=type_).value)  # type: ignore[attr-defined] # it has one
        except (msgspec.MsgspecError, ValueError, RecursionError):  # Some names are refused, and very deep values.
            return self.decoded().get(str(step))
        return _partly(text)

    def elements(self) -> Iterator[Any]:
        """Yield the elements of an array, of which few are decoded at the same time."""
        text = self.text
        last = len(text) - 1
        at = _after_blank(text, 1)
        while at < last:
            end, values = _elements(text, at, last)
            yield from values
            separator = _SEPARATOR.match(text, end)
            at = _after_blank(text, separator.end()) if separator else last


def decode(data: bytes, most: int) -> Any:
    """Return the value of JSON text; a value in it that is very deep, or large in a large record, is Undecoded.

    Raises TooDeep for more than `most` levels, ValueError for text that is not JSON.
    """
    if is_nested_deeper(data, most):
        byte = first_deeper(data.decode("latin-1"), most)
        raise TooDeep(f"objects or arrays are nested deeper than {MAX_NESTING:,}, from byte {byte} of the record on")
    data = data.strip(_BLANKS)
    if not is_whole(data) and value_end(data.decode("latin-1"), 0) < len(data):
        raise ValueError("more than one value")
    return _partly(data)


def _partly(data: bytes) -> Any:
    """Return the value of a JSON text without blanks around it."""
    if data[:1] not in (b"[", b"{"):
        return _decode(data.decode())
    inner = list(_inner(data))
    begins = [0, *(end for _, end in inner)]
    ends = [*(start for start, _ in inner), len(data)]
    reduced = _WORD.join(data[begin:end] for begin, end in zip(begins, ends, strict=True))
    values = (Undecoded(data[begin:end]) for begin, end in inner)
    return decoder(lambda _: next(values)).decode(reduced.decode())


def _inner(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the beginnings and ends of the values that stay text, in order."""
    large = list(_large(data.decode("latin-1"))) if len(data) > WHOLE_RECORD_BYTES else []
    deep: list[tuple[int, int]] = []
    if is_nested_deeper(data, LAYER_LEVELS):
        *_, outermost = layers(data.decode("latin-1"), 0, LAYER_LEVELS)
        deep = outermost.inner
    end = 0
    for start, stop in sorted(large + deep):
        if start >= end:  # A deep value within a large one stays text with it.
            yield start, stop
            end = stop


def _large(text: str) -> Iterator[tuple[int, int]]:
    """Yield the beginnings and ends of the large objects and arrays directly in the object or array of a text."""
    at = 1
    while (token := _TOKEN.search(text, at)) and token[0] not in {"]", "}"}:
        at = token.end()
        if token[0] in {"[", "{"}:
            at = bracket_end(text, token.start()) or len(text)
            if at - token.start() > VALUE_BYTES:
                yield token.start(), at


def _elements(text: bytes, at: int, last: int) -> tuple[int, list[Any]]:
    """Return the end of some elements of an array, which begin at `at`, and these elements: at least one.

    Text that decodes as elements up to a comma consists of whole elements: JSON can be read in one way only.
    """
    if last - at <= VALUE_BYTES:
        cuts: Iterator[int] = iter([last])
    else:
        cuts = _cuts(text, at, at + VALUE_BYTES)
    for cut in cuts:
        part = text[at:cut]
        is_balanced = part.count(b"{") == part.count(b"}") and part.count(b"[") == part.count(b"]")
        if not is_balanced or is_nested_deeper(b"[%b]" % part, LAYER_LEVELS):
            continue
        try:
            return cut, _decode(f"[{part.decode()}]")
        except ValueError:
            continue
    if text[at : at + 1] in (b"[", b"{"):
        end = BracketScan(0).end(text, at) or last
    else:
        scalar = _SCALAR.match(text, at)
        end = scalar.end() if scalar else last
    return end, [_partly(text[at:end].strip(_BLANKS))]


def _cuts(text: bytes, at: int, end: int) -> Iterator[int]:
    """Yield places at which an element may end, the last one first."""
    closing = {b"{": b"}", b"[": b"]"}.get(text[at : at + 1], b"")
    for _ in range(_CUTS):
        end = text.rfind(closing or b",", at, end)
        if end < 0:
            return
        if _SEPARATOR.match(text, end + len(closing)):
            yield end + len(closing)


def _after_blank(text: bytes, at: int) -> int:
    while text[at : at + 1] in (b" ", b"\t", b"\r", b"\n"):
        at += 1
    return at
