"""A proposed definition -> TOML, with a comment that describes the values of each column. Pure."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from etl.datasets import Column, Table
from etl.datasets.types import INFERRED_TIMES
from etl.inference.leaves import Leaf
from etl.inference.tables import Draft

_LONGEST_SHOWN = 40


@dataclass(frozen=True, kw_only=True)
class Sample:
    """The sample of a proposal: its source, the reason for the path of its records, their number, and the faults."""

    source: str
    reason: str
    records: int
    no_records: int
    is_all: bool


def toml(draft: Draft, sample: Sample) -> str:
    """Return the definition as the text of a file."""
    return "\n".join(
        [*_head(draft, sample), *(line for table in draft.dataset.tables for line in _table(draft, table))]
    )


def _head(draft: Draft, sample: Sample) -> Iterator[str]:
    dataset = draft.dataset
    which = "all" if sample.is_all else "the first"
    yield f"# Proposed from {which} {sample.records:,} records of {_shown(sample.source)} ({sample.reason})."
    yield "# A comment after each column describes its values. `required = true` rejects a record without a value."
    yield '# `comment = "..."` becomes the comment of the column in the database.'
    if sample.no_records:
        yield f"# {sample.no_records:,} of them are not JSON objects, or are nested too deep: a load rejects them."
    yield f"name = {_text(dataset.name)}"
    yield f"records = {_text(dataset.records)}"
    yield f'mode = "{dataset.mode}"'
    others = ", ".join(draft.keys.others[:5])
    if dataset.key:
        yield f"key = {_value(dataset.key)}{_remark('also unique and never null: ' + others if others else '')}"
        if draft.keys.newest:
            yield f"# newest_by = {_text(draft.keys.newest[0])}  # of two versions of a record, the larger one stays"
            yield from (f"# newest_by = {_text(name)}" for name in draft.keys.newest[1:3])
    elif others:
        yield f"# No key: the sample is small. Unique and never null: {others}. If one of them is `required`,"
        yield f'# `mode = "merge"` and `key = [{_text(draft.keys.others[0])}]` keep the last version of each record.'
    else:
        yield "# No key: no column is unique and never null. A record that comes again in a file with other content is"
        yield "# added again. The same file is loaded once, whatever its name is."


def _table(draft: Draft, table: Table) -> Iterator[str]:
    yield ""
    yield "[[table]]"
    yield f"name = {_text(table.name)}"
    if table.each:
        each = table.each[0] if len(table.each) == 1 else table.each
        yield f"each = {_value(each)}{_remark(f'{draft.rows[table.name]:,} elements')}"
    yield "[table.columns]"
    for column in table.columns:
        leaf = draft.leaves.get((table.name, column.name))
        yield f"{column.name} = {_column(column)}{_remark(_description(leaf, draft.rows[table.name]) if leaf else '')}"


def _column(column: Column) -> str:
    options: dict[str, Any] = {"path": column.path} if column.path != column.name else {}
    options["type"] = column.type
    for name in ("required", "null_if", "formats", "misfits_to"):
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
    if leaf.kind.type in INFERRED_TIMES and not numbers.count and not leaf.kind.has_misfits:
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
    return (
        '"' + "".join(character if character.isprintable() else f"\\u{ord(character):04x}" for character in cut) + '"'
    )


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
