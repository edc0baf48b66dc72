"""The rules of a column, by its type. Pure.

Each family of types has one module, which holds the conversion and the token check of each of its types.
"""

from dataclasses import replace
from typing import assert_never

from etl.datasets import Column
from etl.datasets.types import NumberType, StructureType, TextType, TimeType, WordType
from etl.ingestion.transform import numbers, structures, texts, times, words, wrappings
from etl.ingestion.transform.rules import Convert, Rules, convert_none


def is_wrapped(column: Column) -> bool:
    """Return whether the values of a column come in another writing."""
    return bool(column.unwrap or column.json or column.decimal or column.true or column.false)


def rules_of(column: Column) -> Rules:
    """Return how the values of a column become fields."""
    rules = _rules_of_type(column)
    if not is_wrapped(column):
        return rules
    # A text in another writing is never stored as it is written: that says nothing.
    convert = wrappings.rewriting(column, rules.convert)
    return replace(rules, convert=convert, convert_all=convert_none, group=None, keeps=None, changed=None)


def _rules_of_type(column: Column) -> Rules:
    type_ = column.column_type
    match type_:
        case TextType():
            return texts.rules(column, type_)
        case NumberType():
            return numbers.rules(column, type_)
        case WordType():
            return words.rules(column, type_)
        case TimeType():
            return times.rules(column, type_)
        case StructureType():
            return structures.rules(column, type_)
        case _:
            assert_never(type_)


def converter(column: Column) -> Convert:
    """Return the function from a JSON value to the COPY text of the column; it raises Misfit."""
    return rules_of(column).convert
