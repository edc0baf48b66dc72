"""A whole column of tokens becomes the same fields as its tokens one by one."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.datasets import Column
from etl.ingestion.transform.acceptance import acceptor, group_of
from etl.ingestion.transform.rules import Token
from etl.ingestion.transform.types import rules_of
from tests.support.definitions import Define
from tests.support.values import TOKENS as ANY

NUMBERS = ["5", "-7", "5.0", "5.00", "0.0", "-0", "-0.0", "1.5", "-0.25", "1e2", "12345678901", "1e400", "9" * 1100]
QUOTED = [f'"{number}"' for number in NUMBERS]
ODD_NUMBERS = [
    '"007"',
    '"+5"',
    '" 5"',
    '""',
    '"-"',
    '"1.0.0"',
    '"1-2"',
    '"1_000"',
    '"0x1F"',
    '"NaN"',
    '"null"',
    '"nu1ll"',
]

COLUMNS = {
    'type = "smallint"': [NUMBERS, QUOTED],
    'type = "integer", min = 0': [NUMBERS, QUOTED],
    'type = "bigint", exact = true': [NUMBERS, QUOTED],
    'type = "numeric"': [NUMBERS, QUOTED],
    'type = "numeric", above = "-0.25", max = 100': [NUMBERS, QUOTED],
    'type = "double", min = "-0.25"': [NUMBERS, QUOTED],
}
"""Columns, each with lists of tokens that may fill one whole column."""


def _accepted(column: Column, tokens: Sequence[Token]) -> list[tuple[bytes | None, bool]]:
    """Return for each token its field, None for a suspect, and whether its text is counted as changed."""
    suspects: set[int] = set()
    rules = rules_of(column)
    fields = acceptor(column)(tokens, suspects)
    changed = set(rules.changed(tokens)) if rules.changed else set()
    assert len(fields) == len(tokens)
    return [
        (None, False) if place in suspects else (bytes(field), place in changed) for place, field in enumerate(fields)
    ]


@pytest.mark.parametrize("options", COLUMNS)
def test_a_column_is_accepted_like_each_of_its_tokens(define: Define, options: str) -> None:
    """The check of a whole column returns the fields, suspects and changed texts that it returns for single tokens."""
    [column] = (
        define(f'name = "parcels"\n[[table]]\nname = "a.b"\ncolumns = {{ c = {{ {options} }} }}').tables[0].columns
    )

    @given(st.sampled_from(COLUMNS[options]).flatmap(_tokens), st.booleans())
    def compare(tokens: list[bytes], is_grouped: bool) -> None:
        single = [_accepted(column, [token])[0] for token in tokens]
        assert _accepted(column, tokens) == single
        group = group_of(column, is_guarded=True)
        if is_grouped and group and (fields := group.accept(tokens)) is not None:
            for field, (own, is_changed) in zip(fields, single, strict=True):
                # The server refuses what only a column alone refuses, such as a number beyond the range of its type.
                assert own is None or (bytes(field), False) == (own, is_changed)

    compare()


def _tokens(likely: list[str]) -> st.SearchStrategy[list[bytes]]:
    """Draw the tokens of a column: nearly all are some of the likely ones."""
    chosen = st.lists(st.sampled_from(likely), min_size=1, max_size=3)
    odd = st.sampled_from(["null", *ODD_NUMBERS, *ANY])
    tokens = st.tuples(chosen, st.integers(1, 12)).map(lambda drawn: drawn[0] * drawn[1])
    mixed = st.tuples(tokens, st.lists(st.tuples(st.integers(0, 40), odd), max_size=3)).map(_with_odd)
    return mixed.map(lambda texts: [text.encode() for text in texts])


def _with_odd(drawn: tuple[list[str], list[tuple[int, str]]]) -> list[str]:
    tokens, odd = drawn
    for place, token in odd:
        tokens.insert(place % (len(tokens) + 1), token)
    return tokens
