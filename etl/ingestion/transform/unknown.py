"""The unknown members of a record: no column, array or condition of its definition leads to them. Pure."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etl.datasets import Dataset, paths
from etl.ingestion.constants import UNKNOWN_NAME_LENGTH, UNKNOWN_NAMES, UNKNOWN_NAMES_OF_RECORD
from etl.ingestion.framing.partial import Undecoded
from etl.ingestion.values import KEY, Fault

Path = tuple[str, ...]

_END = object()

_Tree = dict[str, "_Tree | None"]


class Known(NamedTuple):
    """The names of known members; `below` are those with members that are known one by one, and these members."""

    names: frozenset[Any]
    below: "tuple[tuple[str, Known], ...]"


def known(dataset: Dataset) -> Known | None:
    """Return the members of a record that the definition names; None: a column takes the whole record."""
    root: _Tree | None = {}
    for table in dataset.tables:
        arrays = [paths.steps(each) for each in table.each]
        # Of a change event all of `before` is known: it is what the row was.
        columns = [
            paths.before(column.value_path) if column.other_path else column.value_path
            for column in table.columns
            if column.value is None
        ]
        for path in [*columns, *(condition.value_path for condition in table.where)]:
            if path.sign == "!":
                for name in paths.ACTIONS:
                    root = _with(root, _named((name,)))
            if path.sign in {"", "."}:
                outer = sum(arrays[: len(arrays) - path.up], ())
                own = path.steps if path.steps[1:] else _named(path.steps)
                root = _with(root, _named((*outer, *own)))
        root = _with(root, _named(sum(arrays, ())), is_array=True)
    return None if root is None else _compiled(root)


def unknown(value: Any, members: Known | None) -> Iterator[Path]:
    """Yield the path of each unknown member, once for each object that has it."""
    waiting: list[tuple[Iterator[Any], Known, Path]] = []
    if members is not None and not are_known((value,), members):
        waiting.append((iter((value,)), members, ()))
    while waiting:  # A recursion would be as deep as arrays are nested.
        values, known, path = waiting[-1]
        inner = next(values, _END)
        if isinstance(inner, Undecoded):
            inner = inner.elements() if inner.is_array else inner.decoded()
        if inner is _END:
            waiting.pop()
        elif isinstance(inner, dict):
            if not inner.keys() <= known.names:
                yield from ((*path, name) for name in inner if name not in known.names)
            waiting.extend(
                (iter((inner[name],)), below, (*path, name))
                for name, below in reversed(known.below)
                if isinstance(inner.get(name), dict | list | Undecoded)
            )
        elif isinstance(inner, list | Iterator):
            waiting.append((iter(inner), known, path))


def are_known(values: Sequence[Any], members: Known) -> bool:
    """Return whether values surely have no unknown member: a fast answer for most records, many at once."""
    if set(map(type, values)) != {dict}:
        inner = [element for value in values for element in (value if type(value) is list else (value,))]
        values = [value for value in inner if isinstance(value, dict | list | Undecoded)]
        if not all(type(value) is dict for value in values):
            return False
    return members.names.issuperset(set().union(*values)) and all(
        are_known([value for outer in values if (value := outer.get(name)) is not None], below)
        for name, below in members.below
    )


def distinct(paths: Iterable[Path]) -> tuple[set[Path], int]:
    """Return the different paths of a record, UNKNOWN_NAMES_OF_RECORD at most, and how many places have others."""
    found: set[Path] = set()
    further = iter(paths)
    for path in further:
        found.add(path)
        if len(found) == UNKNOWN_NAMES_OF_RECORD:
            break
    return found, sum(path not in found for path in further)


def name_of(path: Path) -> str:
    """Return an unknown member as it is counted and shown: as a definition would spell it, but not too long.

    Members whose names are equal up to the cut count as one.
    """
    name = paths.spelling(path)
    return name if len(name) <= UNKNOWN_NAME_LENGTH else f"{name[: UNKNOWN_NAME_LENGTH - 1]}…"


class UnknownCounts:
    """Counts the records that have each unknown member, in constant memory.

    The shortest UNKNOWN_NAMES names are kept, of equally long names the first in the order of their characters.
    So the parts of a source give the same names and counts in their sum, however it is cut. `others` counts for each
    record the names that are not kept.
    """

    def __init__(self) -> None:
        self.names: Counter[str] = Counter()
        self.others = 0
        self._last: tuple[int, str] | None = None

    def add(self, counts: Mapping[str, int], others: int = 0) -> None:
        """Add the counts of other records."""
        self.others += others
        for name, count in counts.items():
            if self._last is None or _order(name) <= self._last:
                self.names[name] += count
            else:
                self.others += count
        if len(self.names) > 2 * UNKNOWN_NAMES:
            self._cut()

    def note(self, paths: Iterable[Path], others: int = 0) -> None:
        """Count the different unknown members of one record, each once, and its `others` without names."""
        if names := set(map(name_of, paths)):
            self.add(dict.fromkeys(names, 1), others)

    def kept(self) -> dict[str, int]:
        """Return the counts by name; `others` holds the rest then."""
        self._cut()
        return dict(sorted(self.names.items()))

    def _cut(self) -> None:
        if len(self.names) <= UNKNOWN_NAMES:
            return
        ordered = sorted(self.names, key=_order)
        self.others += sum(self.names.pop(name) for name in ordered[UNKNOWN_NAMES:])
        self._last = _order(ordered[UNKNOWN_NAMES - 1])


def note_unknown(counts: UnknownCounts, record: Any, members: Known | None) -> None:
    """Count the unknown members of a record, which may also be the fault of text that is no record."""
    if not isinstance(record, Fault):
        counts.note(*distinct(unknown(record, members)))


def _order(name: str) -> tuple[int, str]:
    return len(name), name


def _compiled(tree: _Tree) -> Known:
    below = tuple((name, _compiled(inner)) for name, inner in tree.items() if inner is not None)
    return Known(frozenset([*tree, KEY]), below)


def _named(steps: tuple[paths.Step, ...]) -> tuple[paths.Step, ...]:
    """Return steps from an object: if they begin with a number, it is a name."""
    return (str(steps[0]), *steps[1:]) if steps else ()


def _with(members: _Tree | None, steps: tuple[paths.Step, ...], *, is_array: bool = False) -> _Tree | None:
    """Return the members with those on this path; the elements of an array count as one object."""
    if members is None or (not steps and is_array):
        return members
    if not steps:
        return None
    first, *rest = steps
    if isinstance(first, int):  # a position in an array, or a member of that name
        members = _with(members, tuple(rest), is_array=is_array)
        first = str(first)
        if members is None:
            return None
    below = members.get(first, {}) if rest or is_array else None
    return members | {first: _with(below, tuple(rest), is_array=is_array) if below is not None else None}
