"""The arrays and objects at the records paths of a document, located by ijson to the byte.

ijson reads all of a source but the records, so that it checks the document around them to its end.
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

# ijson converts integers by int(), whose limit of 4,300 digits would crash the process.
sys.set_int_max_str_digits(0)

_FEED_BYTES = 1 << 12

_MAX_OTHERS = 5
_MAX_OTHERS_LEVELS = 10

_SECOND = re.compile(rb"(?:^|[\]}])[ \t\n\r]*[\[{]").search


class Container(NamedTuple):
    """The value with the records of one path: an array, an object by keys, or an object that is the only record."""

    prefix: str
    shape: PieceShape
    is_alone: bool

    @property
    def kind(self) -> Literal["array", "object"]:
        """The type of the value in JSON."""
        return "array" if self.shape == "array" else "object"

    @property
    def event(self) -> str:
        """The event of ijson at its beginning."""
        return "start_array" if self.shape == "array" else "start_map"


def container(path: str) -> Container:
    """Return the container that a path names: `a.item` an array, `a.*` an object by keys, `a` or "" a single object."""
    *names, last = path.split(".")
    prefix = ".".join(names)
    if last == "item":
        return Container(prefix, "array", is_alone=False)
    if last == "*":
        return Container(prefix, "members", is_alone=False)
    return Container(path, "values", is_alone=True)


def require_path(path: str) -> None:
    """Raise UsageError for an invalid records path."""
    names = path.split(".")
    if path and (not all(names) or "*" in names[:-1]):
        raise UsageError(
            f"expected a records path such as item, shipments.item or shipments.*, got {path!r}",
            hint="name the elements of an array by item, and the members of an object by * at the end",
        )


class Document:
    """The document around the records; `arrays` and `objects` are other paths that could name records in it."""

    def __init__(self, window: Window, wanted: Sequence[Container]) -> None:
        self.arrays: list[str] = []
        self.objects: list[str] = []
        self._window = window
        self._wanted = wanted
        self._longest = 1 + max(value.prefix.count(".") for value in wanted)
        self._path: list[str] = []
        self._is_begun = False
        self._events = ijson.sendable_list()
        self._parser = ijson.basic_parse_coro(self._events)
        openings = {"[" if value.kind == "array" else "{" for value in wanted}
        self._openings = re.compile(f"[{re.escape(''.join(sorted(openings)))}]".encode())

    def next(self) -> int | None:
        """Continue to the records of the next wanted array or object, and return its place among the wanted ones.

        None: the document has no other. Raises SourceError when it is not JSON or ends too early.
        """
        # Feeding up to each opening bracket shows the exact byte at which an array or object begins.
        while data := self._window.take_to(self._openings, _FEED_BYTES):
            which = self._feed(data)
            if which is not None:
                if self._wanted[which].is_alone:
                    self._window.give_back(1)
                return which
        self._close()
        return None

    def end(self, which: int) -> None:
        """Continue after the array or object whose records were cut."""
        if self._wanted[which].is_alone:
            self._feed(b"}")
        else:
            self._feed(self._window.take(self._window.position + 1, self._window.position))

    @property
    def hint(self) -> str | None:
        """The paths that may name the records instead."""
        if self.arrays:
            return f"arrays are at: {', '.join(self.arrays)} (--records)"
        return f"objects are at: {', '.join(self.objects)} (--records)" if self.objects else None

    def _feed(self, data: bytes) -> int | None:
        try:
            self._parser.send(data)
        except (ijson.JSONError, UnicodeDecodeError, InvalidOperation):
            depth = len(self._path) + sum(
                event.startswith("start_") - event.startswith("end_") for event, _ in self._events
            )
            is_second = depth == 0 and (self._is_begun or self._events) and _SECOND(data)
            raise self._window.fault(
                "more than one document" if is_second else "not JSON around the records",
                self._window.front,
                hint="load each document by itself; if each document is a record, --records item loads them"
                if is_second
                else None,
            ) from None
        opened = None
        for event, value in self._events:
            if event == "map_key":
                self._path[-1] = value
            elif event in {"start_map", "start_array"}:
                # A path for each event, as ijson makes it, would take memory that grows with the square of the levels.
                prefix = ".".join(self._path) if len(self._path) <= max(self._longest, _MAX_OTHERS_LEVELS) else None
                for which, wanted in enumerate(self._wanted):
                    if event == wanted.event and prefix == wanted.prefix:
                        opened = which
                if prefix is not None:
                    self._note(prefix, event)
                self._path.append("item")
            elif event in {"end_map", "end_array"}:
                self._path.pop()
        self._is_begun |= bool(self._events)
        self._events.clear()
        if len(self._path) > MAX_NESTING:
            raise self._window.fault(f"nested deeper than {MAX_NESTING:,} around the records", self._window.front)
        return opened

    def _note(self, prefix: str, event: str) -> None:
        """Note each other path once that could name records."""
        if event == "start_array":
            paths, path = self.arrays, f"{prefix}.item".removeprefix(".")
        elif event == "start_map" and prefix and "." not in prefix:
            paths, path = self.objects, f"{prefix}.*"
        else:
            return
        if len(paths) < _MAX_OTHERS and path not in paths:
            paths.append(path)

    def _close(self) -> None:
        # The parser ignores a token that the end of the source cuts off. A blank ends a number or a word, and a quote
        # ends a text, so that the parser reads them; after a whole document the quote itself is ignored.
        self._feed(b" ")
        self._feed(b'"')
        try:
            self._parser.close()
        except ijson.JSONError:
            raise self._window.fault("the source is cut off", self._window.front) from None
