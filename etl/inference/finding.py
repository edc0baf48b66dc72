"""Where the records of a source are, told by its first bytes. Pure: knows the shapes of JSON, no file."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import ijson

from etl.errors import UsageError
from etl.ingestion.framing.boundaries import NotJSON, skip_blank, value_end

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FEWEST_KEYED = 3
_SHARE_OF_RECORDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Found:
    """The path of one record, and in words why it is taken."""

    records: str
    reason: str


@dataclass
class _Level:
    """An object or array that is open: the way to it (None within an array), and what it holds so far.

    `own` are its members; `any_has` and `all_have` are the members of the objects in it.
    """

    names: tuple[str, ...] | None
    is_array: bool
    start: int
    key: str = ""
    objects: int = 0
    others: int = 0
    own: set[str] = field(default_factory=set)
    any_has: frozenset[str] = frozenset()
    all_have: frozenset[str] | None = None


def find_records(head: bytes) -> Found:
    """Return where the records are.

    Raises UsageError when they cannot be told from the beginning of one large document.
    """
    data = head.removeprefix(_BYTE_ORDER_MARK)
    text = data.decode("latin-1")
    start = skip_blank(text, 0)
    if text[start : start + 1] != "{":
        return Found(records="item", reason="the elements of the array")
    try:
        is_whole = True
        if skip_blank(text, value_end(text, start)) < len(text):
            return Found(records="item", reason="records that follow one another")
    except NotJSON as error:
        is_whole = False
        if not error.cut_off:
            return Found(records="item", reason="records that follow one another")
    found = _largest(data, is_whole=is_whole)
    if found is not None:
        return found
    if is_whole:
        return Found(records="item", reason="the document is one record")
    raise UsageError(
        "expected an array of objects near the beginning of the document, found none",
        hint="name the path of one record by --records, as in shipments.item",
    )


def _largest(data: bytes, *, is_whole: bool) -> Found | None:
    """Return the largest array or keyed object, or None; in a whole document it must hold half of what there is."""
    most, best, total = 0, None, 0
    for size, total, level in _levels(data):  # noqa: B007 - the last total is that of the document
        # What is outside ends later: it holds more than what is within it.
        if size > most and (found := _told(level)):
            most, best = size, found
    return None if is_whole and most < total * _SHARE_OF_RECORDS else best


def _told(level: _Level) -> Found | None:
    if level.names is None or not level.objects or level.others:
        return None
    where = ".".join(level.names)
    if (level.names and not all(where.split("."))) or "*" in level.names:
        return None  # No path leads there: names in it are not quoted.
    if level.is_array:
        return Found(records=f"{where}.item", reason=f"the elements of the array at {where}")
    if level.objects < _FEWEST_KEYED or 2 * len(level.all_have or ()) < max(len(level.any_has), 1):
        return None
    place = f"the object at {where}" if where else "the document"
    return Found(records=".".join([*level.names, "*"]), reason=f"the members of {place}, each under its key")


def _levels(data: bytes) -> Iterator[tuple[int, int, _Level]]:
    """Yield each object and array when it ends, or the data does: the events in it, those so far, and itself."""
    held: list[_Level] = []
    count = 0
    try:
        for event, value in ijson.basic_parse(io.BytesIO(data), use_float=True):
            count += 1
            if event == "map_key":
                held[-1].key = value
                held[-1].own.add(value)
            elif event in {"end_map", "end_array"}:
                ended = held.pop()
                if held and not ended.is_array:
                    _add_object(held[-1], ended)
                yield count - ended.start, count, ended
            elif event in {"start_map", "start_array"}:
                if held and event == "start_array":
                    held[-1].others += 1
                held.append(_Level(names=_way(held), is_array=event == "start_array", start=count))
            else:
                held[-1].others += 1
    except ijson.JSONError:
        pass  # The data ends here or is broken, which is told where all of it is read.
    while held:
        yield count - held[-1].start, count, held.pop()


def _way(held: list[_Level]) -> tuple[str, ...] | None:
    if not held:
        return ()
    outer = held[-1]
    return None if outer.is_array or outer.names is None else (*outer.names, outer.key)


def _add_object(outer: _Level, ended: _Level) -> None:
    """Count an object in what holds it: the records of a keyed object are much alike."""
    outer.objects += 1
    outer.any_has |= ended.own
    outer.all_have = frozenset(ended.own if outer.all_have is None else outer.all_have & ended.own)
