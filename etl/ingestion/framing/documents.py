"""The arrays and objects at the records paths of a document, located by ijson to the byte.

ijson reads all of a source but the records, so that it checks the document around them to its end. Several documents
may follow one another, such as pages: each has records at one of the paths.
"""

import re
import sys
from collections.abc import Sequence
from decimal import InvalidOperation
from typing import Any, Literal, NamedTuple, Protocol

import ijson

from etl.errors import SourceError, UsageError
from etl.ingestion.constants import MAX_NESTING
from etl.ingestion.framing.dialects import dialect_in
from etl.ingestion.framing.window import Window
from etl.ingestion.values import PieceShape

# ijson converts integers by int(), whose limit of 4,300 digits would crash the process.
sys.set_int_max_str_digits(0)

_FEED_BYTES = 1 << 12

_MAX_OTHERS = 5
_MAX_OTHERS_LEVELS = 10

BOM = b"\xef\xbb\xbf"


class Container(NamedTuple):
    """The value with the records of one path: an array, an object by keys, or an object that is the only record.

    In the prefix a `*` is any member.
    """

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

    def is_at(self, path: Sequence[str]) -> bool:
        """Return whether a value with this path may have the records."""
        if "*" not in self.prefix:
            return ".".join(path) == self.prefix
        names = self.prefix.split(".")
        return len(names) == len(path) and all(name in {"*", own} for name, own in zip(names, path, strict=True))


def container(path: str) -> Container:
    """Return the container that a path names: `a.item` an array, `a.*` an object by keys, `a` or "" a single object.

    `*.item` are the arrays of all members, `a.*.*` all objects by keys in the members of `a`.
    """
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
    is_open = "*" in names and names[-1] not in {"item", "*"}
    if path and (not all(names) or is_open):
        raise UsageError(
            f"expected a records path such as item, shipments.item, shipments.* or *.item, got {path!r}",
            hint="name the elements of an array by item, and the members of an object by *",
        )


class OutsideReader(Protocol):
    """Reads what a document has outside of its records."""

    def add(self, path: Sequence[str], event: str, value: Any) -> None:
        """Take the next event of ijson with the path at which it is; an event of the records is not among them.

        Raises UsageError, without the name of the source, when the document is not as it should be.
        """


class Document:
    """The document around the records; `arrays` and `objects` are other paths that could name records in it.

    Each of `outside` is given the events of ijson outside of the records.
    """

    def __init__(
        self,
        window: Window,
        wanted: Sequence[Container],
        outside: Sequence[OutsideReader] = (),
    ) -> None:
        self.arrays: list[str] = []
        self.objects: list[str] = []
        self._window = window
        self._wanted = wanted
        self._outside = outside
        self._longest = 1 + max(value.prefix.count(".") for value in wanted)
        self._path: list[str] = []
        self._documents = 0
        self._has_records = False
        self._events = ijson.sendable_list()
        self._parser = ijson.basic_parse_coro(self._events, multiple_values=True)
        openings = {"[" if value.kind == "array" else "{" for value in wanted}
        self._openings = re.compile(b"[%b]|%b" % (re.escape("".join(sorted(openings))).encode(), BOM))

    def next(self) -> int | None:
        """Continue to the records of the next wanted array or object, and return its place among the wanted ones.

        None: the documents have no other. Raises SourceError when one is not JSON or ends too early.
        """
        # Feeding up to each opening bracket shows the exact byte at which an array or object begins.
        while data := self._window.take_to(self._openings, _FEED_BYTES):
            which = self._feed(self._without_mark(data))
            if which is not None:
                self._has_records = True
                if self._wanted[which].is_alone:
                    self._window.give_back(1)
                return which
        self._close()
        return None

    def _without_mark(self, data: bytes) -> bytes:
        """Return bytes without a byte-order mark between two documents at their end; files are joined so."""
        # A mark may be cut in two where the bytes are divided.
        cut = next((size for size in (2, 1) if data.endswith(BOM[:size])), 0)
        if 0 < cut < len(data):
            self._window.give_back(cut)
            return data[:-cut]
        while cut and len(data) < len(BOM) and BOM.startswith(data):
            more = self._window.take_to(self._openings, len(BOM) - len(data))
            if not more:
                break
            data += more
        if not data.endswith(BOM):
            return data
        self._feed(data[: -len(BOM)])
        return b"" if not self._path else BOM

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
            if data:  # No bytes would end the parser.
                self._parser.send(data)
        except (ijson.JSONError, UnicodeDecodeError, InvalidOperation):
            raise self._not_json(data) from None
        opened = None
        for event, value in self._events:
            if self._outside:
                self._show(event, value)
            if event == "map_key":
                self._path[-1] = value
            elif event in {"start_map", "start_array"}:
                opened = self._opened(event, opened)
                self._path.append("item")
            elif event in {"end_map", "end_array"}:
                self._path.pop()
            elif not self._path:
                raise self._window.fault("not JSON around the records", self._window.front)
            elif event == "null" and any(wanted.is_at(self._path) for wanted in self._wanted):
                self._has_records = True  # A page without records.
        self._events.clear()
        if len(self._path) > MAX_NESTING:
            raise self._window.fault(f"nested deeper than {MAX_NESTING:,} around the records", self._window.front)
        return opened

    def _show(self, event: str, value: Any) -> None:
        """Give an event to those who read what is outside of the records.

        Raises UsageError when one of them refuses it.
        """
        try:
            for reader in self._outside:
                reader.add(self._path, event, value)
        except UsageError as error:
            raise UsageError(f"{self._window.source}: {error}", hint=error.hint) from None

    def _not_json(self, data: bytes) -> SourceError:
        """Return the fault of bytes around the records that are not JSON."""
        dialect = dialect_in(data.decode("latin-1"))
        reason = "not JSON around the records"
        if dialect is None:
            return self._window.fault(reason, self._window.front)
        return self._window.fault(f"{reason}: {dialect.name}", self._window.front, hint=dialect.hint)

    def _opened(self, event: str, opened: int | None) -> int | None:
        """Note a value that begins; return its place if it is a wanted one, else the place that was `opened` before."""
        if not self._path:
            self._begin()
        # A path for each event, as ijson makes it, would take memory that grows with the square of the levels.
        if len(self._path) <= max(self._longest, _MAX_OTHERS_LEVELS):
            for which, wanted in enumerate(self._wanted):
                if event == wanted.event and wanted.is_at(self._path):
                    opened = which
            self._note(".".join(self._path), event)
        return opened

    def _begin(self) -> None:
        """Begin a document.

        Raises SourceError when it may not follow those before it.
        """
        self._documents += 1
        if self._documents == 1:
            return
        if any(wanted.is_alone for wanted in self._wanted):
            raise self._window.fault(
                "more than one document",
                self._window.front,
                hint="load each document by itself; if each document is a record, --records item loads them",
            )
        self._require_records(self._documents - 1)
        self._has_records = False

    def _require_records(self, number: int) -> None:
        """Raise SourceError when the document of this number has nothing at any records path."""
        if not self._has_records:
            raise self._window.fault(
                f"document {number:,} of the source has no records at the records path",
                self._window.front,
                hint=self.hint,
            )

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
        # ends a text, so that the parser reads them; after a whole document two quotes are a text that nobody wrote.
        self._feed(b" ")
        self._feed(b'"')
        try:
            if not self._path:
                self._parser.send(b'"')
                self._events.clear()
            self._parser.close()
        except ijson.JSONError:
            raise self._window.fault("the source is cut off", self._window.front) from None
        if self._documents > 1:
            self._require_records(self._documents)
