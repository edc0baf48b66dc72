"""Record -> the rows of one table as COPY text, and the checks of their values, compiled once per table. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice, repeat
from typing import Any, NamedTuple, Self

from etl.datasets import Column, Table, paths
from etl.ingestion.constants import NULL_TEXT
from etl.ingestion.framing.partial import Undecoded
from etl.ingestion.transform.columns import Columns
from etl.ingestion.transform.members import Condition, Getter, Outer, condition, descending, getter, kind
from etl.ingestion.transform.rules import Rules
from etl.ingestion.transform.structures import json_text
from etl.ingestion.transform.types import rules_of
from etl.ingestion.values import Fault, Misfit
from etl.quick_dataclasses import dataclass

_ELEMENTS_TOGETHER = 64
"""Elements of arrays that are converted together. Few, because each may become a large row."""


@dataclass(frozen=True, kw_only=True)
class _Cell:
    """One column, compiled: the getter of its value, its rules, and the place of the column that takes its misfits.

    `member` is the name of the member that is the value unchanged, or None where the getter must compute the value.
    """

    column: Column
    member: str | None
    get: Getter
    rules: Rules
    misfits_to: int | None


class _Cells(NamedTuple):
    """The columns of a table: `steps` are the short form for one row, and `columns` converts many rows at once."""

    cells: tuple[_Cell, ...]
    steps: tuple[tuple[str | None, Getter, Callable[[Any], str]], ...]
    columns: Columns


class CompiledTable(NamedTuple):
    """A table, compiled: its columns, the arrays that lead to its rows, and its condition (None: it takes all)."""

    table: Table
    cells: _Cells
    arrays: "tuple[_Array, ...]"
    takes: Condition | None

    @classmethod
    def of(cls, table: Table, coerced: list[str]) -> Self:
        """Compile a table. A text that a column does not store as it is written adds its name to `coerced`."""
        takes = condition(table) if table.where else None
        return cls(table=table, cells=_compile(table, coerced), arrays=_arrays(table), takes=takes)

    def rows(self, record: dict[str, Any], lineage: str) -> Iterable[str]:
        """Return the rows of a record; those of an array are made as they are taken.

        Raises RecordRefusal if the record can never load, perhaps when a row is taken.
        """
        table, cells, arrays, takes = self
        if not arrays:
            return [_row(table, cells, record, None, 1, lineage)]
        return (
            _row(table, cells, element, outer, position, lineage)
            for element, outer, position in _elements(table, arrays, record, None, 0)
            if takes is None or takes(element, outer, position)
        )

    def rows_together(self, records: Sequence[Any], lineages: Sequence[str]) -> Iterable[str]:
        """Return the rows of many records.

        Raises Misfit or RecordRefusal if one of them does not fit.
        """
        if self.arrays:
            if self.cells.columns.can_repeat and not any(map(_is_large, records)):
                return self._rows_of_elements(records, lineages)
            return chain.from_iterable(map(self.rows, records, lineages))
        return list(map("\t".join, zip(*self.cells.columns.texts(records), lineages, strict=True)))

    def _rows_of_elements(self, records: Sequence[Any], lineages: Sequence[str]) -> Iterator[str]:
        """Yield the rows of the elements of records, some made at a time: a record may have very many.

        Raises RecordRefusal if one of them does not fit.
        """
        table, cells, arrays, takes = self
        found = (
            (element, outer, position, lineage)
            for record, lineage in zip(records, lineages, strict=True)
            for element, outer, position in _elements(table, arrays, record, None, 0)
            if takes is None or takes(element, outer, position)
        )
        while some := list(islice(found, _ELEMENTS_TOGETHER)):
            elements, outers, positions, ends = zip(*some, strict=True)
            if set(map(type, elements)) == {dict}:
                try:
                    texts = cells.columns.texts(elements, outers, positions)
                except Misfit as misfit:
                    raise RecordRefusal(misfit, table, None) from None
                yield from map("\t".join, zip(*texts, ends, strict=True))
            else:
                yield from map(_row, repeat(table), repeat(cells), elements, outers, positions, ends)

    def key_text(self, key: Sequence[str], record: dict[str, Any]) -> str | None:
        """Return the COPY text of the columns of a key; None where one is missing or does not fit."""
        cells = {cell.column.name: cell for cell in self.cells.cells}
        try:
            values = [(cells[name], cells[name].get(record, None, 0)) for name in key]
            if any(value is None for _, value in values):
                return None
            return "\t".join(cell.rules.convert(value) for cell, value in values)
        except Misfit:
            return None


def _is_large(record: dict[str, Any]) -> bool:
    """Return whether a record has values that stay text until they are needed."""
    return Undecoded in map(type, record.values())


class RecordRefusal(Exception):
    """The record can never become rows; `fault` says why."""

    def __init__(self, misfit: Misfit, table: Table, column: Column | None, position: int = 0) -> None:
        super().__init__()
        element = f" (element {position} of {table.each[-1]})" if table.each and position else ""
        self.fault = Fault(
            sqlstate=misfit.sqlstate,
            reason=misfit.reason + element,
            table=table.name,
            column=column.name if column else None,
        )


def _row(table: Table, cells: _Cells, item: Any, outer: Outer | None, position: int, lineage: str) -> str:
    """Return a row; a misfit is moved to the column that takes it.

    Raises RecordRefusal where no column takes a misfit.
    """
    member = item.get if type(item) is dict else None
    values: list[str] = []
    moves: list[tuple[_Cell, int, Misfit]] = []
    for name, get, convert in cells.steps:
        try:
            value = get(item, outer, position) if name is None or member is None else member(name)
            values.append(NULL_TEXT if value is None else convert(value))
        except Misfit as misfit:
            cell = cells.cells[len(values)]
            if cell.misfits_to is None or misfit.is_violation:
                raise RecordRefusal(misfit, table, cell.column, position) from None
            moves.append((cell, cell.misfits_to, misfit))
            values.append(NULL_TEXT)
    for cell, target, unfit in moves:
        try:
            if values[target] != NULL_TEXT:  # Of two texts for one column, one would be lost.
                raise unfit
            values[target] = cells.cells[target].rules.convert(json_text(cell.get(item, outer, position)))
        except Misfit as unstorable:
            raise RecordRefusal(unstorable, table, cell.column, position) from None
    values.append(lineage)
    return "\t".join(values)


def _compile(table: Table, coerced: list[str]) -> _Cells:
    places = {column.name: index for index, column in enumerate(table.columns)}
    cells = tuple(
        _Cell(
            column=column,
            member=None if _is_changed(column) else column.value_path.member,
            get=getter(column),
            rules=_noting(rules_of(column), table, column, coerced),
            misfits_to=places[column.misfits_to] if column.misfits_to else None,
        )
        for column in table.columns
    )
    return _Cells(
        cells=cells,
        steps=tuple((cell.member, cell.get, cell.rules.convert) for cell in cells),
        columns=Columns([(cell.column, cell.get, cell.rules) for cell in cells]),
    )


def _noting(rules: Rules, table: Table, column: Column, coerced: list[str]) -> Rules:
    """Return rules that note the column for each text of a record that it does not store as it is written."""
    convert, keeps, name = rules.convert, rules.keeps, f"{table.name}.{column.name}"
    if keeps is None or column.exact or column.value is not None:
        return rules

    def convert_noting(value: Any) -> str:
        text = convert(value)
        if type(value) is str and not keeps(value) and value != column.default:
            coerced.append(name)
        return text

    return replace(rules, convert=convert_noting)


def _is_changed(column: Column) -> bool:
    """Return whether the value is not that at the path unchanged, or a missing value may be refused."""
    return bool(
        column.value is not None
        or column.unwrap
        or column.other_path
        or column.trim
        or column.null_if
        or column.default is not None
        or column.required
    )


class _Array(NamedTuple):
    """An array whose elements become rows: its getter, and its path as a fault names it."""

    get: Getter
    path: str


def _arrays(table: Table) -> tuple[_Array, ...]:
    return tuple(_Array(get=descending(paths.steps(path)), path=path) for path in table.each)


def _elements(
    table: Table, arrays: tuple[_Array, ...], item: Any, outer: Outer | None, position: int
) -> Iterator[tuple[Any, Outer, int]]:
    """Yield the elements of an array, or of the arrays in its elements, each with its enclosing object and position."""
    array, *inner = arrays
    enclosing = Outer(item, outer, position)
    try:
        elements = array.get(item, outer, position)
    except Misfit as misfit:
        raise RecordRefusal(misfit, table, None) from None
    if elements is None:
        return
    if isinstance(elements, Undecoded):
        elements = elements.elements() if elements.is_array else [elements]
    elif isinstance(elements, dict):
        elements = [elements] if elements else []
    elif elements is False or elements == "":
        return
    elif not isinstance(elements, list):
        raise RecordRefusal(Misfit("22P02", f"expected an array at {array.path}, got {kind(elements)}"), table, None)
    for number, element in enumerate(elements, 1):
        if inner:
            yield from _elements(table, tuple(inner), element, enclosing, number)
        else:
            yield element, enclosing, number
