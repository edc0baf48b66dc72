"""Where the records of a source are, detected from its first bytes. Pure: knows the shapes of JSON, and no file."""

import io
from collections.abc import Iterator
from dataclasses import dataclass, field

import ijson

from etl.errors import UsageError
from etl.ingestion.framing.boundaries import NotJSON, skip_blank, value_end

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FEWEST_KEYED = 3
_SHARE_OF_RECORDS = 0.5
_LONGEST_PATH = 50
"""A path of more names is not proposed: each level would keep the names of all levels around it."""


@dataclass(frozen=True, kw_only=True)
class RecordPath:
    """The path of one record, and a reason for it in words."""

    path: str
    reason: str


@dataclass
class _Level:
    """An open object or array: the names that lead to it (None within an array), and its content so far.

    `own` are its members; `any_has` and `all_have` are the members that some or all of the objects in it have.
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


def find_records(head: bytes) -> RecordPath:
    """Return the path of the records.

    Raises UsageError if the beginning of one large document does not show it.
    """
    data = head.removeprefix(_BYTE_ORDER_MARK)
    text = data.decode("latin-1")
    start = skip_blank(text, 0)
    if text[start : start + 1] != "{":
        return RecordPath(path="item", reason="the elements of the array")
    try:
        is_whole = True
        if skip_blank(text, value_end(text, start)) < len(text):
            return RecordPath(path="item", reason="records that follow one another")
    except NotJSON as error:
        is_whole = False
        if not error.cut_off:
            return RecordPath(path="item", reason="records that follow one another")
    path = _largest(data, is_whole=is_whole)
    if path is not None:
        return path
    if is_whole:
        return RecordPath(path="item", reason="the document is one record")
    raise UsageError(
        "expected an array of objects near the beginning of the document, found none",
        hint="name the path of one record by --records, as in shipments.item",
    )


def _largest(data: bytes, *, is_whole: bool) -> RecordPath | None:
    """Return the path of the largest array or keyed object, or None; in a whole document it must hold half of all."""
    most, best, total = 0, None, 0
    for size, total, level in _levels(data):  # noqa: B007 - the last total is that of the document
        # An outer level ends after the inner ones, and is larger.
        if size > most and (path := _record_path(level)):
            most, best = size, path
    return None if is_whole and most < total * _SHARE_OF_RECORDS else best


def _record_path(level: _Level) -> RecordPath | None:
    if level.names is None or not level.objects or level.others:
        return None
    where = ".".join(level.names)
    if (level.names and not all(where.split("."))) or "*" in level.names:
        return None  # no path of records can spell such a name
    if level.is_array:
        return RecordPath(path=f"{where}.item", reason=f"the elements of the array at {where}")
    if level.objects < _FEWEST_KEYED or 2 * len(level.all_have or ()) < max(len(level.any_has), 1):
        return None
    place = f"the object at {where}" if where else "the document"
    return RecordPath(path=".".join([*level.names, "*"]), reason=f"the members of {place}, each under its key")


def _levels(data: bytes) -> Iterator[tuple[int, int, _Level]]:
    """Yield each object and array at its end, or at the end of the data: its events, all events so far, and itself."""
    levels: list[_Level] = []
    count = 0
    try:
        for event, value in ijson.basic_parse(io.BytesIO(data), use_float=True):
            count += 1
            if event == "map_key":
                levels[-1].key = value
                levels[-1].own.add(value)
            elif event in {"end_map", "end_array"}:
                ended = levels.pop()
                if levels and not ended.is_array:
                    _add_object(levels[-1], ended)
                yield count - ended.start, count, ended
            elif event in {"start_map", "start_array"}:
                if levels and event == "start_array":
                    levels[-1].others += 1
                levels.append(_Level(names=_names_to(levels), is_array=event == "start_array", start=count))
            else:
                levels[-1].others += 1
    except ijson.JSONError:
        pass  # the data ends here, or the cutter reports the fault
    while levels:
        yield count - levels[-1].start, count, levels.pop()


def _names_to(levels: list[_Level]) -> tuple[str, ...] | None:
    """Return the names that lead to a new level in the innermost of these levels."""
    if not levels:
        return ()
    outer = levels[-1]
    if outer.is_array or outer.names is None or len(outer.names) >= _LONGEST_PATH:
        return None
    return (*outer.names, outer.key)


def _add_object(outer: _Level, ended: _Level) -> None:
    """Count an object in its outer level: the records of a keyed object have nearly the same members."""
    outer.objects += 1
    outer.any_has |= ended.own
    outer.all_have = frozenset(ended.own if outer.all_have is None else outer.all_have & ended.own)
