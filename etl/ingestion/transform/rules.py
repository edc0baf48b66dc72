"""The rules of a column: the conversion of the checked path, and the token check of the fast path. Pure.

A token is the text of a JSON value as it is written in the record. Each type has one module that makes its rules;
`types` names it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import msgspec

from etl.quick_dataclasses import dataclass

Convert = Callable[[Any], str]
"""One JSON value, not null -> the text that COPY reads. Raises Misfit."""

ConvertAll = Callable[[Sequence[Any]], Sequence[str] | None]
"""Values -> their texts, or None where each one needs a closer look, because one is null or of another kind.

Raises Misfit where one of them does not fit.
"""

Token = msgspec.Raw | bytes

Accept = Callable[[Sequence[Token], set[int]], Sequence[Token]]
"""The tokens of a column, and the suspects -> the fields of CSV. Adds the places of the tokens that do not pass."""


Accepted = tuple[Sequence[Token], Mapping[int, Collection[int]]]
"""The fields of rows, joined by their separator, and the odd tokens, which need a closer look: by rows, their columns.

A field that is not yet known is any field.
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Group:
    """Columns whose tokens are checked together: the tokens of a row are joined by the separator of fields.

    `accept` gets the rows and the number of columns. It returns None where many rows have odd tokens.
    """

    name: str
    accept: Callable[[Sequence[Token], int], Accepted | None]


Changed = Callable[[Sequence[Token]], Sequence[int]]
"""Tokens of a column -> the places of the accepted texts that the column does not store as they are written."""


@dataclass(frozen=True, kw_only=True)
class Rules:
    """How the values of one column become fields.

    `convert` and `convert_all` are the checked path: one value, and a whole column. `accept` is the fast path's check
    of the column alone, `group` its check with other columns, which knows no limits; it is None where there is none.
    `keeps` says whether the column stores a text as it is written; None: each text, or its form means nothing. The
    other texts are counted: by the checked path, and by the fast path, where `changed` finds them among the texts that
    it accepts.
    """

    convert: Convert
    convert_all: ConvertAll
    accept: Accept
    group: Group | None = None
    keeps: Callable[[str], object] | None = None
    changed: Changed | None = None


def convert_none(_values: Sequence[Any]) -> None:
    """Convert no whole column: each value needs a closer look."""
