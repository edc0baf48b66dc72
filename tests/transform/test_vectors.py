"""Vectors: an array of numbers of one length; each other value is refused with the reason."""

from decimal import Decimal
from typing import Any

import pytest

from etl.datasets.server_types import server_type
from etl.ingestion.transform.vectors import Judge
from etl.ingestion.values import Misfit


@pytest.mark.parametrize("name", ["vector(3)", "ext.Vector( 3 )", "halfvec(3)", "vector", '"vector"(3)'])
@pytest.mark.parametrize("elements", [[1, Decimal("2.5"), -3.0], [0, 0, Decimal("1e-900")]])
def test_numbers_of_the_length_fit(name: str, elements: list[Any]) -> None:
    """Whole numbers, decimals and numbers too small for the type, which become 0, are its elements."""
    Judge(server_type(name)).require_fit(elements)
    Judge(server_type(name)).require_text_fits(f" [{', '.join(map(str, elements))}] ")


@pytest.mark.parametrize(
    ("name", "elements", "sqlstate", "reason"),
    [
        ("vector(3)", [1, 2], "22000", "expected an array of 3 numbers, got 2"),
        ("vector(2)", [1, 2, 3], "22000", "expected an array of 2 numbers, got 3"),
        ("vector(3)", [], "22000", "expected an array of 3 numbers, got 0"),
        ("vector", [], "22000", "expected an array of numbers, got an empty one"),
        ("vector(2)", [1, None], "22P02", "expected an array of 2 numbers, got null at place 2"),
        ("vector(2)", [True, 1], "22P02", "expected an array of 2 numbers, got true or false at place 1"),
        ("vector(2)", ["1", 2], "22P02", "expected an array of 2 numbers, got text at place 1"),
        ("vector(2)", [[1, 2]], "22P02", "expected an array of 2 numbers, got an array at place 1"),
        (
            "vector(2)",
            [1, Decimal("-1e39")],
            "22003",
            "expected an array of 2 numbers, got a number that is too large for it",
        ),
        ("halfvec(1)", [65520], "22003", "expected an array of 1 numbers, got a number that is too large for it"),
        ("vector(1)", [10**400], "22003", "expected an array of 1 numbers, got a number that is too large for it"),
    ],
)
def test_other_arrays_are_refused_with_the_reason(name: str, elements: list[Any], sqlstate: str, reason: str) -> None:
    """The reason says what was expected and what was found, and quotes no value."""
    with pytest.raises(Misfit, match=rf"^{reason}$") as refused:
        Judge(server_type(name)).require_fit(elements)
    assert refused.value.sqlstate == sqlstate


@pytest.mark.parametrize(
    ("text", "sqlstate", "word"),
    [
        ("[1,NaN]", "22000", "NaN"),
        ("[1,nan", "22000", "NaN"),
        ("[1,-Infinity]", "22003", "too large"),
        ("[1,,2]", "22P02", "between its brackets"),
        ("[1,null]", "22P02", "between its brackets"),
        ("[1]", "22000", "got 1"),
        ("[ ]", "22000", "got 0"),
    ],
)
def test_a_text_is_judged_by_its_numbers(text: str, sqlstate: str, word: str) -> None:
    """NaN and infinity can only come in a text; they have no distance."""
    with pytest.raises(Misfit, match=word) as refused:
        Judge(server_type("vector(2)")).require_text_fits(text)
    assert refused.value.sqlstate == sqlstate
