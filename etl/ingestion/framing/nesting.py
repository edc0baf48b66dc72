"""The brackets of JSON text: how deep they are nested, and where the value that they enclose ends. Pure.

Strings are skipped by splitting at the quotes and brackets are counted by deleting all other bytes, which reads some
hundred megabytes a second. Nothing is checked here but the balance of the brackets: decoding is the proof. Decoders
recurse, so that a value of many levels is decoded a layer of some levels at a time.
"""

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import field
from itertools import accumulate

from etl.quick_dataclasses import dataclass

_SLICE_BYTES = 1 << 16
_FIRST_SLICE_BYTES = 1 << 8
_ARRAY_SLICE_BYTES = 1 << 12

_BRACKETS = b"[{]}"
_OTHERS = bytes(set(range(256)).difference(_BRACKETS))
_STEPS = bytes.maketrans(_BRACKETS, b"\x01\x01\xff\xff")
# A string that the text cuts off reaches to the end of the text.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+(?:"|\\?\Z)|[\[{\]}]', re.DOTALL)

_ROUNDS = 4
"""Rounds in which adjacent pairs of brackets are removed: most slices are flat, and then they need not be counted."""


class BracketScan:
    """A scan of one object or array that gets the bytes in parts and keeps its state between them.

    `depth` is the number of open brackets, `deepest` the largest depth so far, or a larger number that is still
    `shallow`; `scanned` counts the bytes that were looked at.
    """

    def __init__(self, shallow: int) -> None:
        self.depth = 0
        self.deepest = 0
        self.scanned = 0
        self._shallow = shallow
        self._in_string = False
        self._is_escaped = False

    def end(self, data: bytes, start: int = 0, stop: int | None = None) -> int | None:
        """Continue with these bytes; return the position after the bracket that ends the value, None if it is later."""
        stop = len(data) if stop is None else stop
        for begin in range(start, stop, _SLICE_BYTES):
            piece = data[begin : min(begin + _SLICE_BYTES, stop)]
            self.scanned += len(piece)
            end = self._slice_end(piece)
            if end is not None:
                return begin + end
        return None

    def _slice_end(self, piece: bytes) -> int | None:
        plain = self._without_escapes(piece)
        parts = plain.split(b'"')
        began_in_string = self._in_string
        self._in_string ^= not len(parts) & 1
        brackets = b"".join(parts[began_in_string::2]).translate(None, _OTHERS)
        if self._is_flat(brackets):
            return None
        depths = list(accumulate(array("b", brackets.translate(_STEPS)), initial=self.depth))
        highest = max(depths)
        self.deepest = max(self.deepest, highest)
        self.depth = depths[-1]
        try:
            number = depths.index(0, 1)
        except ValueError:
            return None
        return _place_of(number, parts, began_in_string=began_in_string)

    def _is_flat(self, brackets: bytes) -> bool:
        """Note the depth of brackets that surely neither end the value nor are deep; False if they must be counted."""
        for rounds in range(_ROUNDS):
            shorter = brackets.replace(b"[]", b"").replace(b"{}", b"")
            if len(shorter) == len(brackets):
                opened = len(brackets.lstrip(b"]}"))
                closed = len(brackets) - opened
                # The rest must be brackets that close, then brackets that open.
                if closed >= self.depth or b"]" in brackets[closed:] or b"}" in brackets[closed:]:
                    return False
                # Pairs may have been removed before the brackets that close, and after those that open.
                deepest = self.depth + max(0, opened - closed) + 2 * rounds
                if deepest > self._shallow:
                    return False
                self.deepest = max(self.deepest, deepest)
                self.depth += opened - closed
                return True
            brackets = shorter
        return False

    def _without_escapes(self, piece: bytes) -> bytes:
        """Return the bytes with each escape of a quote or a backslash replaced by as many other bytes."""
        if self._is_escaped:
            self._is_escaped = False
            piece = b"x" + piece[1:]
        if b"\\" not in piece:
            return piece
        piece = piece.replace(b"\\\\", b"xx").replace(b'\\"', b"xx")
        self._is_escaped = piece.endswith(b"\\")
        return piece


def _place_of(number: int, parts: list[bytes], *, began_in_string: bool) -> int:
    """Return the position after the bracket of this number, from 1, outside the strings of a slice."""
    at = 0
    for place, part in enumerate(parts):
        if place % 2 == began_in_string:
            found = part.translate(None, _OTHERS)
            if len(found) >= number:
                for index, byte in enumerate(part):
                    number -= byte in _BRACKETS
                    if not number:
                        return at + index + 1
            number -= len(found)
        at += len(part) + 1
    raise AssertionError("the bracket is in the slice")


def is_nested_deeper(value: bytes, most: int) -> bool:
    """Return whether the objects and arrays of a JSON value are nested deeper than `most`."""
    # Counting is cheap, and nearly always shows that the exact depth is not needed.
    if value.count(b"[") + value.count(b"{") <= most:
        return False
    scan = BracketScan(most)
    scan.end(value)
    return scan.deepest > most


def bracket_end(text: str, start: int) -> int | None:
    """Return the position after the bracket that ends the object or array at `start` of a latin-1 text, or None."""
    scan = BracketScan(0)
    at, size = start, _FIRST_SLICE_BYTES
    while at < len(text):
        end = scan.end(text[at : at + size].encode("latin-1"))
        if end is not None:
            return at + end
        at += size
        size = min(4 * size, _SLICE_BYTES)
    return None


class ArrayScan:
    """A scan for the end of the array around `begin`, where one of its elements begins; it continues where it was."""

    def __init__(self, begin: int) -> None:
        self._begin = begin
        self._scan = BracketScan(0)
        self._scan.depth = 1
        self._end: int | None = None

    def end(self, data: bytes, offset: int, most: int) -> int | None:
        """Return the position of the bracket that ends the array, None if it is not before `most` or not in the data.

        All positions count from where the data begins at `offset`.
        """
        stop = min(most - offset, len(data))
        # Bytes that were known before and taken at once are never scanned.
        while self._end is None and 0 <= (at := self._begin + self._scan.scanned - offset) < stop:
            end = self._scan.end(data, at, min(at + _ARRAY_SLICE_BYTES, stop))
            self._end = None if end is None else offset + end - 1
        return self._end


def first_deeper(text: str, most: int) -> int | None:
    """Return the position of the first bracket that opens a level deeper than `most`, or None where no bracket does."""
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text):
        depth += _STEP.get(token[0], 0)
        if depth > most:
            return token.start()
    return None


_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


@dataclass()
class Layer:
    """Some levels of a value: its text from `start` to `end`, in which a word replaces each value that is deeper.

    `end` is None where the text ends before the value. `inner` are the beginnings and ends of the deeper values.
    """

    start: int
    end: int | None = None
    inner: list[tuple[int, int]] = field(default_factory=list)

    def text(self, whole: str, word: str) -> str:
        """Return the text of the layer with this word for each deeper value."""
        begins = [self.start, *(end for _, end in self.inner)]
        ends = [*(start for start, _ in self.inner), len(whole) if self.end is None else self.end]
        return word.join(whole[begin:end] for begin, end in zip(begins, ends, strict=True))

    def place(self, position: int, word: str) -> int:
        """Return the position in the whole text of a position in the text of the layer."""
        begins = [self.start, *(end for _, end in self.inner)]
        ends = [start for start, _ in self.inner]
        lengths = [end - begin + len(word) for begin, end in zip(begins, ends, strict=False)]
        own = list(accumulate(lengths, initial=0))
        which = bisect_right(own, position) - 1
        return begins[which] + position - own[which]


def layers(text: str, start: int, levels: int) -> Iterator[Layer]:
    """Yield the layers of the object or array at `start`, of so many levels each: an inner layer before its outer one.

    The last layer is the outermost one. Where the text ends before the value, the layers that are cut off have no end.
    """
    opened: list[Layer] = []
    depth = 0
    for token in _STRING_OR_BRACKET.finditer(text, start):
        step = _STEP.get(token[0], 0)
        if step > 0 and depth % levels == 0:
            opened.append(Layer(token.start()))
        depth += step
        if step < 0 and depth % levels == 0:
            layer = opened.pop()
            layer.end = token.end()
            if opened:
                opened[-1].inner.append((layer.start, layer.end))
            yield layer
            if not opened:
                return
    # The values that the text cuts off are within one another.
    while opened:
        layer = opened.pop()
        if opened:
            opened[-1].inner.append((layer.start, len(text)))
        yield layer
