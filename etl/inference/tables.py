"""What was seen of records -> the definition that is proposed, and what was seen of each of its columns. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import msgspec

from etl.datasets import Column, Dataset, Table, paths
from etl.inference import keys
from etl.inference.identifiers import Names
from etl.inference.leaves import Array, Leaf, within
from etl.inference.observing import Observation

_SCHEMA = "logistics"


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A definition as it is proposed: for each table and column what was seen of it, and what else could be its key."""

    dataset: Dataset
    seen: Mapping[tuple[str, str], Leaf]
    rows: Mapping[str, int]
    keys: keys.Keys


@dataclass(frozen=True, kw_only=True)
class _Drafting:
    """What grows while tables are drafted, one after the other."""

    dataset: str
    names: Names
    seen: dict[tuple[str, str], Leaf] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)


def draft(root: Observation, name: str, records: str, taken: frozenset[str]) -> Draft:
    """Propose a definition called `name` for records of which `root` was seen; no table gets a name that is taken."""
    own = {table.partition(".")[2] for table in taken if table.startswith(f"{_SCHEMA}.")}
    drafting = _Drafting(dataset=name, names=Names(own))
    leaves, arrays = within(root)
    fixed = [Column(type="text", name="record_key", path="@", required=True)] if records.endswith("*") else []
    first = _table(drafting, (), fixed, leaves)
    drafting.rows[first.name] = root.count
    seen = {column: leaf for (_, column), leaf in drafting.seen.items()}
    chosen = keys.choose(seen, name, root.count)
    key = fixed[0].name if fixed else chosen.key
    columns = tuple(_required(column) if column.name == key else column for column in first.columns)
    first = msgspec.structs.replace(first, columns=columns)
    dataset = Dataset(
        name=name,
        records=records,
        mode="merge" if key else "append",
        key=(key,) if key else (),
        newest_by=None,
        tables=(first, *_children(drafting, (), arrays, first.column(key) if key else None)),
        path="",
    )
    return Draft(dataset=dataset, seen=drafting.seen, rows=drafting.rows, keys=chosen)


def _required(column: Column) -> Column:
    return msgspec.structs.replace(column, required=True)


def _children(
    drafting: _Drafting, outer: tuple[tuple[str, ...], ...], arrays: list[Array], key: Column | None
) -> Iterator[Table]:
    """Propose a table for each array, and behind it those of the arrays in its elements; `outer` are those around."""
    for array in arrays:
        ways = (*outer, array.way)
        leaves, inner = within(array.elements)
        table = _table(drafting, ways, [*_from_record(key, len(ways)), *_positions(ways)], leaves)
        drafting.rows[table.name] = array.elements.count
        yield table
        yield from _children(drafting, ways, inner, key)


def _from_record(key: Column | None, levels: int) -> Iterator[Column]:
    """Yield the column of a child table that holds the key of its record."""
    if key:
        path = key.path if key.path == "@" else "^." * levels + key.path
        yield msgspec.structs.replace(key, path=path, required=False)


def _positions(ways: tuple[tuple[str, ...], ...]) -> Iterator[Column]:
    """Yield the columns that number the elements: those of the outer arrays first, then the row's own."""
    names = Names()
    for up in range(len(ways) - 1, -1, -1):
        words = (*ways[-1 - up], "line_no") if up else ("line_no",)
        yield Column(type="integer", name=names.new(words), path="^." * up + "#")


def _table(drafting: _Drafting, ways: tuple[tuple[str, ...], ...], fixed: list[Column], leaves: list[Leaf]) -> Table:
    """Return a table of the columns that stand in it anyway, and of one for each leaf, its misfits behind it."""
    words = [drafting.dataset, *(name for way in ways for name in way)]
    table = f"{_SCHEMA}.{drafting.names.new(words)}"
    names = Names({column.name for column in fixed})
    named = [(names.new(leaf.way or ("record",)), leaf) for leaf in leaves]
    columns = list(fixed)
    for name, leaf in named:
        kind = leaf.kind
        note = names.new([name, "note"]) if kind.has_misfits else None
        column = Column(
            type=kind.type,
            name=name,
            path=paths.told(leaf.way) if leaf.way else ".",
            null_if=kind.null_if,
            formats=kind.formats,
            misfits_to=note,
        )
        columns.append(column)
        if note:
            columns.append(Column(type="text", name=note, path=note))
        drafting.seen[table, name] = leaf
    return Table(name=table, each=tuple(map(paths.told, ways)), columns=tuple(columns))
