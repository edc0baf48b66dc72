"""Observations of records -> the proposed definition, with the observation of each of its columns. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from etl.datasets import SOURCE, Column, Dataset, Table, paths
from etl.inference import keys
from etl.inference.identifiers import Names
from etl.inference.kinds import kind_of
from etl.inference.leaves import Array, Leaf, within
from etl.inference.observing import Budget, Observation
from etl.inference.outside import Member

SCHEMA = "logistics"

Words = tuple[str, ...]
"""Names of members that the name of a table or a column is made of."""


@dataclass(frozen=True, kw_only=True)
class Draft:
    """A proposed definition: the observation of each column, the rows of each table, the candidates for the key.

    `operation` is the path of the operation, if the records are changes of a database.
    """

    dataset: Dataset
    leaves: Mapping[tuple[str, str], Leaf]
    rows: Mapping[str, int]
    keys: keys.Keys
    operation: str | None = None


@dataclass(frozen=True, kw_only=True)
class DraftState:
    """The state of a draft: it grows table by table."""

    dataset: str
    names: Names
    leaves: dict[tuple[str, str], Leaf] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)


def draft_of(
    root: Observation,
    name: str,
    records: str,
    used_names: frozenset[str],
    record_names: Words,
    members: Sequence[Member] = (),
) -> Draft:
    """Propose a definition called `name` for the observed records; no table gets one of the used names.

    `record_names` are words for the record, beside those of the dataset. `members` are those of the document that the
    first table takes.
    """
    own = {table.partition(".")[2] for table in used_names if table.startswith(f"{SCHEMA}.")}
    state = DraftState(dataset=name, names=Names(own))
    leaves, arrays = within(root)
    fixed = [Column(type="text", name="record_key", path="@", required=True)] if records.endswith("*") else []
    if not leaves and not fixed:
        fixed = [Column(type="text", name="source", path="source", value=SOURCE)]  # a table has at least one column
    first = _table(state, (), (), fixed, leaves)
    first = msgspec.structs.replace(first, columns=(*first.columns, *_of_document(members, first)))
    state.rows[first.name] = root.count
    places = {column: leaf for (_, column), leaf in state.leaves.items()}
    candidates = keys.choose(places, keys.names_of_record(name, records, record_names), root.count)
    key = "record_key" if records.endswith("*") else candidates.key
    columns = tuple(_required(column) if column.name == key else column for column in first.columns)
    first = msgspec.structs.replace(first, columns=columns)
    key_columns = tuple(column for column in first.columns if column.name == key)
    dataset = Dataset(
        name=name,
        records=records,
        mode="merge" if key else "append",
        key=(key,) if key else (),
        newest_by=None,
        tables=(first, *children(state, (), (), arrays, key_columns)),
        path="",
    )
    operation = _operation(root)
    return Draft(dataset=dataset, leaves=state.leaves, rows=state.rows, keys=candidates, operation=operation)


def _operation(root: Observation) -> str | None:
    """Return the path of the operation of changes of a database, as Debezium writes them, or of actions, or None."""
    if paths.ACTION in root.members:
        return paths.ACTION
    for path, place in (("", root), ("payload.", root.members.get("payload"))):
        if place and {"before", "after", "op"} <= place.members.keys():
            return f"{path}op"
    return None


def _of_document(members: Sequence[Member], table: Table) -> Iterator[Column]:
    """Yield a column for each of these members of the document."""
    names = Names({column.name for column in table.columns})
    for member in members:
        place = Observation(Budget())
        place.add(member.value)
        kind = kind_of(place, member.path[-1])
        name = names.new(member.path, shorter=member.words)
        yield Column(type=kind.type, name=name, path=member.document_path, formats=kind.formats, **kind.options)


def _required(column: Column) -> Column:
    return msgspec.structs.replace(column, required=True)


def children(
    state: DraftState,
    outer: tuple[tuple[str, ...], ...],
    outer_words: Words,
    arrays: list[Array],
    key: tuple[Column, ...],
) -> Iterator[Table]:
    """Propose a table for each array, each followed by those of the arrays in its elements; `outer` encloses them.

    `key` are the columns of the first table that identify a record.
    """
    for array in arrays:
        array_paths, words = (*outer, array.path), (*outer_words, *array.words)
        leaves, inner = within(array.elements)
        fixed = [*_from_record(key, len(array_paths)), *_positions(array_paths)]
        table = _table(state, array_paths, words, fixed, leaves)
        state.rows[table.name] = array.elements.count
        yield table
        yield from children(state, array_paths, words, inner, key)


def _from_record(key: tuple[Column, ...], levels: int) -> Iterator[Column]:
    """Yield the columns of a child table that hold the key of its record."""
    for column in key:
        path = column.path if column.path == "@" or column.value is not None else "^." * levels + column.path
        yield msgspec.structs.replace(column, path=path, required=False, comment=None)


def _positions(array_paths: tuple[tuple[str, ...], ...]) -> Iterator[Column]:
    """Yield the columns that number the elements: those of the outer arrays first, then the row's own."""
    names = Names()
    for up in range(len(array_paths) - 1, -1, -1):
        words = (*array_paths[-1 - up], "line_no") if up else ("line_no",)
        yield Column(type="integer", name=names.new(words), path="^." * up + "#")


def _table(
    state: DraftState,
    array_paths: tuple[tuple[str, ...], ...],
    words: Words,
    fixed: list[Column],
    leaves: list[Leaf],
) -> Table:
    """Return a table of the fixed columns and of those of the leaves."""
    full = [name for path in array_paths for name in path]
    table = f"{SCHEMA}.{state.names.table(state.dataset, full, words)}"
    names = Names({column.name for column in fixed})
    columns = list(fixed)
    for column, leaf in columns_of(leaves, names):
        columns.append(column)
        if leaf:
            state.leaves[table, column.name] = leaf
    return Table(name=table, each=tuple(map(paths.spelling, array_paths)), columns=tuple(columns))


def columns_of(leaves: list[Leaf], names: Names) -> Iterator[tuple[Column, Leaf | None]]:
    """Yield a column for each leaf with that leaf, followed by the column of its misfits."""
    # Of two leaves with the same short name, the outer one gets it.
    by_depth = sorted(range(len(leaves)), key=lambda place: len(leaves[place].path))
    chosen = {place: names.new(leaves[place].path or ("record",), shorter=leaves[place].words) for place in by_depth}
    for place, leaf in enumerate(leaves):
        kind, name = leaf.kind, chosen[place]
        note = names.new([name, "note"]) if kind.has_misfits else None
        column = Column(
            type=kind.type,
            name=name,
            path=paths.spelling(leaf.path) if leaf.path else ".",
            null_if=kind.null_if,
            formats=kind.formats,
            misfits_to=note,
            **kind.options,
        )
        yield column, leaf
        if note:
            yield Column(type="text", name=note, path=note), None
