"""The rules of a column, by its type. Pure.

Each family of types has one module, which holds the conversion and the token check of each of its types.
"""

from typing import assert_never

from etl.datasets import Column
from etl.datasets.types import NumberType, StructureType, TextType, TimeType, WordType
from etl.ingestion.transform import numbers, structures, texts, times, words
from etl.ingestion.transform.rules import Convert, Rules


def rules_of(column: Column) -> Rules:
    """Return how the values of a column become fields."""
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
