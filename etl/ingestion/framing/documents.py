"""Where in a document the records are: the arrays and objects at their paths, found by ijson to the byte.

ijson is fed all of a source but the records, so that it checks the document around them to its end.
"""

import re
import sys
from collections.abc import Sequence
from decimal import InvalidOperation
from typing import Literal, NamedTuple

import ijson

from etl.errors import UsageError
from etl.ingestion.constants import MAX_NESTING
from etl.ingestion.framing.window import Window
from etl.ingestion.values import PieceShape

# ijson converts integers by int(), which refuses more than 4,300 digits by an error that ends the process.
sys.set_int_max_str_digits(0)

# ijson keeps a path for each level, so a document that only nests must be noticed before it fills the memory.
_FEED_BYTES = 1 << 12
_NESTING_STEPS = {"start_map": 1, "start_array": 1, "end_map": -1, "end_array": -1}

_MOST_OTHERS = 5

_SECOND = re.compile(rb"(?:^|[\]}])[ \t\n\r]*[\[{]").search


class Container(NamedTuple):
    """What holds the records of one path: an array, an object by keys, or an object that is itself the only record."""

    prefix: str
    shape: PieceShape
    is_alone: bool

    @property
    def kind(self) -> Literal["array", "object"]:
        """What JSON calls it."""
        return "array" if self.shape == "array" else "object"

    @property
    def event(self) -> str:
        """What ijson calls its beginning."""
        return "start_array" if self.shape == "array" else "start_map"


def container(path: str) -> Container:
    """Return what a path names: `a.item` an array, `a.*` an object by keys, `a` (or nothing) a single object."""
    *names, last = path.split(".")
    prefix = ".".join(names)
    if last == "item":
        return Container(prefix, "array", is_alone=False)
    if last == "*":
        return Container(prefix, "members", is_alone=False)
    return Container(path, "values", is_alone=True)


def require_path(path: str) -> None:
    """Raise UsageError when a records path can name nothing."""
    names = path.split(".")
    if path and (not all(names) or "*" in names[:-1]):
        raise UsageError(
            f"expected a records path such as item, shipments.item or shipments.*, got {path!r}",
            hint="name the elements of an array by item, and the members of an object by * at the end",
        )


class Document:
    """What stands around the records; `arrays` and `objects` are paths that would name records in it."""

    def __init__(self, window: Window, wanted: Sequence[Container]) -> None:
        self.arrays: list[str] = []
        self.objects: list[str] = []
        self._window = window
        self._wanted = wanted
        self._nesting = 0
        self._is_begun = False
        self._events = ijson.sendable_list()
        self._parser = ijson.parse_coro(self._events)
        openings = {"[" if each.kind == "array" else "{" for each in wanted}
        self._openings = re.compile(f"[{re.escape(''.join(sorted(openings)))}]".encode())

    def next(self) -> int | None:
        """Go on to the records of the next array or object that is wanted, and return its place among these.

        None: the document ended without one. Raises SourceError when it is not JSON or ends too early.
        """
        # Feeding up to each opening bracket tells to the byte where an array or object begins.
        while data := self._window.take_to(self._openings, _FEED_BYTES):
            which = self._feed(data)
            if which is not None:
                if self._wanted[which].is_alone:
                    self._window.give_back(1)
                return which
        self._close()
        return None

    def end(self, which: int) -> None:
        """Go on behind the array or object whose records were walked."""
        if self._wanted[which].is_alone:
            self._feed(b"}")
        else:
            self._feed(self._window.take(self._window.position + 1, self._window.position))

    @property
    def hint(self) -> str | None:
        """Where records may be instead."""
        if self.arrays:
            return f"arrays are at: {', '.join(self.arrays)} (--records)"
        return f"objects are at: {', '.join(self.objects)} (--records)" if self.objects else None

    def _feed(self, data: bytes) -> int | None:
        try:
            self._parser.send(data)
        except (ijson.JSONError, UnicodeDecodeError, InvalidOperation):
            depth = self._nesting + sum(_NESTING_STEPS.get(event, 0) for _, event, _ in self._events)
            is_second = depth == 0 and (self._is_begun or self._events) and _SECOND(data)
            raise self._window.fault(
                "more than one document" if is_second else "not JSON around the records",
                self._window.front,
                hint="give each to a load of its own; where each is a record, --records item loads them"
                if is_second
                else None,
            ) from None
        found = None
        for prefix, event, _ in self._events:
            self._nesting += _NESTING_STEPS.get(event, 0)
            for which, each in enumerate(self._wanted):
                if event == each.event and prefix == each.prefix:
                    found = which
            self._note(prefix, event)
        self._is_begun |= bool(self._events)
        self._events.clear()
        if self._nesting > MAX_NESTING:
            raise self._window.fault(f"nested deeper than {MAX_NESTING} around the records", self._window.front)
        return found

    def _note(self, prefix: str, event: str) -> None:
        """Note what else could hold records; what comes again and again is noted once."""
        if event == "start_array":
            noted, path = self.arrays, f"{prefix}.item".removeprefix(".")
        elif event == "start_map" and prefix and "." not in prefix:
            noted, path = self.objects, f"{prefix}.*"
        else:
            return
        if len(noted) < _MOST_OTHERS and path not in noted:
            noted.append(path)

    def _close(self) -> None:
        # The parser passes over a token that the end of the source cuts in two. A blank ends a number or word, a quote
        # a text, and they are noticed; behind a whole document the quote is such a token itself.
        self._feed(b" ")
        self._feed(b'"')
        try:
            self._parser.close()
        except ijson.JSONError:
            raise self._window.fault("the source is cut off", self._window.front) from None
