"""Each type of the table has a conversion and a token check, and both give the same result."""

import json
from decimal import Decimal
from typing import get_args

import pytest

from etl.datasets import TYPES, Column, Type
from etl.ingestion.transform.acceptance import group_of
from etl.ingestion.transform.tokens import SEPARATOR
from etl.ingestion.transform.types import rules_of
from etl.ingestion.values import Misfit
from tests.support.values import TOKENS, checked_text, fast_field

NAMES: tuple[Type, ...] = get_args(Type)


@pytest.mark.parametrize("name", NAMES)
def test_each_type_converts_some_of_its_examples_and_refuses_others(name: Type) -> None:
    """The examples of each type in the table have values that fit and misfits."""
    texts = [checked_text(Column(type=name), example) for example in TYPES[name].examples]
    assert None in texts
    assert set(texts) != {None}


@pytest.mark.parametrize("name", NAMES)
def test_a_group_accepts_what_a_column_alone_accepts(name: Type) -> None:
    """If a group and a single column both accept a token, they send the same field, and an odd token keeps no other."""
    column = Column(name="value", path="value", type=name)
    group = group_of(column, is_guarded=True)
    if group is None:
        return
    nulls = SEPARATOR.join([b"null", b"null"])
    sent = 0
    for token in TOKENS:
        rows = [SEPARATOR.join([token.encode(), b"null"]), nulls, SEPARATOR.join([b"null", token.encode()])]
        accepted = group.accept(rows, 2)
        alone = fast_field(column, token)
        if "\\u001" not in token.lower():  # The separators of the check itself.
            assert accepted is not None
            assert set(accepted[1]) in ({0, 2}, set())
        if accepted is not None and not accepted[1] and alone is not None:
            assert [bytes(row) for row in accepted[0]] == [
                SEPARATOR.join([bytes(alone), b"null"]),
                nulls,
                SEPARATOR.join([b"null", bytes(alone)]),
            ]
            sent += 1
    assert sent


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_column_is_converted_like_each_of_its_values(name: Type) -> None:
    """The conversion of many values at once returns the same texts as the single conversions, or declines."""
    rules = rules_of(Column(type=name))
    for token in TOKENS:
        values = [json.loads(token, parse_float=Decimal)] * 3
        text = checked_text(Column(type=name), token)
        try:
            texts = rules.convert_all(values)
        except Misfit:
            texts = None
        assert texts is None or list(texts) == [text] * 3
        assert rules.convert_all([*values, None]) is None
        assert rules.convert_all([None, *values]) is None


@pytest.mark.parametrize("odd", ["a\tb", "\\N", "\r\n", "\u00a0", "\x1f", "a\0b", "\ud800", "\\\x1f\t"])
def test_texts_are_escaped_together_like_each_of_them(odd: str) -> None:
    """Texts with characters that COPY escapes become the same texts at once, unless one needs a closer look."""
    rules = rules_of(Column(type="text"))
    values = ["a", odd, "", "é\\t\t", odd]
    texts = rules.convert_all(values)
    if texts is None:
        assert {"\0", "\x1f", "\ud800"}.intersection(odd)
    else:
        assert list(texts) == list(map(rules.convert, values))
