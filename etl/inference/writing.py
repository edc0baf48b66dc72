"""A proposed definition -> TOML, with a comment that describes the values of each column. Pure."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from etl.datasets import Column, Table
from etl.datasets.paths import ACTION
from etl.datasets.types import INFERRED_TIMES
from etl.inference.leaves import Leaf
from etl.inference.tables import Draft

_LONGEST_SHOWN = 40

_OPTIONS = ("required", "null_if", "true", "false", "decimal", "json", "unwrap", "formats", "timezone", "misfits_to")
"""The options of a column that may be proposed, in the order of the reference."""

_BARE_NAME = re.compile(r"[A-Za-z0-9_]+")


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The sample of a proposal: its source, the reason for the path of its records, their number, and the faults.

    `further` is the number of records of the middle and the end that were looked at. `left_out` are the numbers of
    values outside the records by their paths; `may_leave_out_more`: what follows the sample may have others.
    `rest_fault` says why the rest could not be read.
    """

    source: str
    reason: str
    records: int
    further: int
    no_records: int
    is_all: bool
    left_out: Mapping[str, int]
    may_leave_out_more: bool
    rest_fault: str


def toml(draft: Draft, sample: Sample) -> str:
    """Return the definition as the text of a file."""
    return "\n".join(
        [
            *_head(draft, sample),
            *_left_out(sample),
            *(line for table in draft.dataset.tables for line in table_lines(draft, table)),
        ]
    )


def _head(draft: Draft, sample: Sample) -> Iterator[str]:
    dataset = draft.dataset
    which = "all" if sample.is_all else "the first"
    further = f" and {sample.further:,} further on" if sample.further else ""
    yield f"# Proposed from {which} {sample.records:,} records{further} of {_shown(sample.source)} ({sample.reason})."
    yield "# A comment after each column describes its values. `required = true` rejects a record without a value."
    yield '# `comment = "..."` becomes the comment of the column in the database.'
    if sample.no_records:
        yield f"# {sample.no_records:,} of them are not JSON objects, or are nested too deep: a load rejects them."
    yield f"name = {_text(dataset.name)}"
    yield f"records = {_text(dataset.records)}"
    yield f'mode = "{dataset.mode}"'
    yield from _key(draft)
    yield f'on_unknown = "{dataset.on_unknown}"  # counts the records that have a member without a column'


def _key(draft: Draft) -> Iterator[str]:
    candidates, others = draft.keys, ", ".join(draft.keys.others[:5])
    if draft.dataset.key:
        yield f"key = {_value(draft.dataset.key)}{_remark('also unique and never null: ' + others if others else '')}"
        if candidates.newest:
            yield f"# newest_by = {_text(candidates.newest[0])}  # of two versions of a record, the larger one stays"
            yield from (f"# newest_by = {_text(name)}" for name in candidates.newest[1:3])
    elif others:
        few = "the sample is small" if candidates.own else "no unique column is named like the record"
        yield f"# No key: {few}. Unique and never null: {others}. If one of them is `required`,"
        yield f'# `mode = "merge"` and `key = [{_text(draft.keys.others[0])}]` keep the last version of each record.'
    else:
        yield "# No key: no column with the name of an identifier is unique and never null. A record that comes again"
        yield "# in a file with other content is added again. The same file is loaded once, whatever its name is."
    if draft.operation == ACTION:
        yield "# The records are the actions of a bulk request. For the documents that it leaves, give the column of"
        yield '# `$action._id` `required = true`, and this dataset `mode = "merge"`, that column as `key`, and'
        yield f'# `delete_if = {{ "{ACTION}" = "delete" }}`.'
    elif draft.operation:
        yield "# The records are changes of a database: each is added. For the last state of each row, give the column"
        yield '# of its id `required = true`, and this dataset `mode = "merge"`, that column as `key`, and'
        yield f'# `delete_if = {{ {_text(draft.operation)} = "d" }}`; the columns of `before` are not needed then.'


def _left_out(sample: Sample) -> Iterator[str]:
    """Yield the comments that name what is outside the records."""
    counts = sample.left_out
    if counts:
        yield f"# Left out: in no record of the source (values: {sum(counts.values()):,}). Values by path:"
        yield from (f"#   {_printable(path)}: {count:,}" for path, count in counts.items())
        yield "# `--records PATH` proposes for another array. `--records ''` makes the document one record."
    if sample.may_leave_out_more:
        yield "# The source was not read to its end: there may be more outside of the records."


def table_lines(draft: Draft, table: Table) -> Iterator[str]:
    """Yield the lines of a table, after an empty one."""
    yield ""
    yield "[[table]]"
    yield f"name = {_text(table.name)}"
    if table.each:
        each = table.each[0] if len(table.each) == 1 else table.each
        yield f"each = {_value(each)}{_remark(f'{draft.rows[table.name]:,} elements')}"
    yield "[table.columns]"
    for column in table.columns:
        yield column_line(column, draft.leaves.get((table.name, column.name)), draft.rows[table.name])


def column_line(column: Column, leaf: Leaf | None, rows: int) -> str:
    """Return the line of a column, with a comment about its values in so many rows."""
    return f"{_name(column.name)} = {_column(column)}{_remark(_description(leaf, rows) if leaf else '')}"


def _name(name: str) -> str:
    """Return a name as a key of TOML."""
    return name if _BARE_NAME.fullmatch(name) else _text(name)


def _column(column: Column) -> str:
    options: dict[str, Any] = {"path": column.path} if column.path != column.name else {}
    if column.value is not None:
        options["value"] = column.value
    options["type"] = column.type
    for name in _OPTIONS:
        if value := getattr(column, name):
            options[name] = value
    if len(options) == 1:
        return _text(column.type)
    return "{ " + ", ".join(f"{name} = {_value(value)}" for name, value in options.items()) + " }"


def _description(leaf: Leaf, rows: int) -> str:
    place, texts, numbers = leaf.place, leaf.place.texts, leaf.place.numbers
    parts = ["always" if place.values == rows else f"in {place.values:,} of {rows:,}"]
    if numbers.count:
        parts.append(_range("", _number(numbers.least), _number(numbers.most)))
    if leaf.kind.type in INFERRED_TIMES and texts.count and not numbers.count and not leaf.kind.has_misfits:
        if not leaf.kind.formats and not texts.none_words:
            parts.append(_range("", _shown(texts.least), _shown(texts.most)))
    elif texts.count:
        parts.append(_range("", f"{texts.shortest:,}", f"{texts.longest:,}") + " characters")
    if leaf.kind.type == "text" and texts.none_words and texts.values:
        parts.append(f"perhaps null_if = {_value(sorted(texts.none_words))}")
    if leaf.kind.has_misfits or (numbers.count and texts.examples):
        parts.append("others such as " + ", ".join(map(_shown, texts.examples)))
    if leaf.kind.remark:
        parts.append(leaf.kind.remark)
    return "; ".join(parts)


def _range(before: str, least: str, most: str) -> str:
    return before + (least if least == most else f"{least} to {most}")


def _number(number: Any) -> str:
    text = str(number)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _shown(text: str) -> str:
    """Return a text for a comment: short, on one line, and without characters that change how the line is shown."""
    cut = text if len(text) <= _LONGEST_SHOWN else text[:_LONGEST_SHOWN] + "..."
    return f'"{_printable(cut)}"'


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in text)


def _remark(text: str) -> str:
    return f"  # {text}" if text else ""


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, Iterable):
        return "[" + ", ".join(map(_value, value)) + "]"
    return str(value)


def _text(text: str) -> str:
    """Return a basic string of TOML: JSON's escapes, and that of the character DEL."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
