from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings

from etl.datasets import Column, Type
from etl.ingestion.transform.conversions import is_storable
from etl.ingestion.transform.structures import json_text
from etl.ingestion.transform.types import converter
from etl.ingestion.values import Misfit
from tests.support.values import MISFITS, VALUES


@pytest.mark.parametrize("kind", VALUES)
def test_any_value_becomes_one_field_or_a_misfit(kind: Type) -> None:
    """A conversion returns one field of COPY for any value, or a short reason for a misfit."""
    convert = converter(Column(type=kind))

    @settings(deadline=None, derandomize=True, max_examples=200)
    @given(VALUES[kind])
    def check(value: Any) -> None:
        try:
            text = convert(value)
        except Misfit as misfit:
            found = (misfit.sqlstate[:2], misfit.is_violation, len(misfit.reason) < 120)
        else:
            found = ("22", not is_storable(text), not set(text) & set("\t\n\r"))
        assert found == ("22", False, True)

    check()


@pytest.mark.parametrize(("kind", "value", "sqlstate"), MISFITS, ids=[f"{n}-{fit[0]}" for n, fit in enumerate(MISFITS)])
def test_a_misfit_has_its_sqlstate(kind: Type, value: Any, sqlstate: str) -> None:
    """A misfit is refused with the SQLSTATE of the contract and a short sentence."""
    with pytest.raises(Misfit) as caught:
        converter(Column(type=kind))(value)
    assert caught.value.sqlstate == sqlstate
    assert not caught.value.is_violation
    assert len(caught.value.reason) < 120


# (type, value, text that is sent): spellings that fit.
FITTING: list[tuple[Type, Any, str]] = [
    ("text", "", ""),
    ("text", "\\N", "\\\\N"),
    ("text", "\\.", "\\\\."),
    ("text", "a\tb\nc\rd", "a\\tb\\nc\\rd"),
    ("text", True, "true"),
    ("text", 10**40, "1" + "0" * 40),
    ("text", Decimal("1.50"), "1.50"),
    ("text", Decimal("8e2"), "800"),
    ("text", Decimal("1e-7"), "0.0000001"),
    ("text", Decimal("0e5"), "0"),
    ("integer", Decimal("800.0"), "800"),
    ("integer", Decimal("8e2"), "800"),
    ("integer", "42", "42"),
    ("integer", " +42.0\n", "42"),
    ("integer", Decimal("0e100000"), "0"),
    ("integer", Decimal("-0.0"), "0"),
    ("numeric", Decimal("0.10"), "0.10"),
    ("numeric", " 1.5 ", "1.5"),
    ("numeric", ".5", "0.5"),
    ("numeric", 10**40, "1" + "0" * 40),
    ("double", Decimal("0.1"), "0.1"),
    ("double", Decimal("5e-324"), "5e-324"),
    ("boolean", True, "t"),
    ("boolean", "false", "f"),
    ("uuid", "0f8fad5b-d9cb-469f-a165-70867728950e", "0f8fad5b-d9cb-469f-a165-70867728950e"),
    ("uuid", "0F8FAD5B-d9cb-469f-A165-70867728950E", "0F8FAD5B-d9cb-469f-A165-70867728950E"),
    ("date", "2024-02-29", "2024-02-29"),
    ("time", "08:15", "08:15"),
    ("time", "08:15:30.1234567", "08:15:30.1234567"),
    ("time", "08:15:30." + "1" * 200, "08:15:30." + "1" * 15),
    ("time", "24:00:00.000", "24:00:00.000"),
    ("time", "23:59:60", "23:59:60"),
    ("timestamptz", "2026-11-21T08:15:00.1234567Z", "2026-11-21T08:15:00.1234567Z"),
    ("timestamptz", "2026-11-21T08:15:00." + "1" * 200 + "+0530", "2026-11-21T08:15:00." + "1" * 15 + "+0530"),
    ("timestamptz", "2016-12-31T23:59:60Z", "2016-12-31T23:59:60Z"),
    ("timestamptz", "2026-11-21 24:00+15:59", "2026-11-21 24:00+15:59"),
    (
        "jsonb",
        {"a": [None, True, 10**40, Decimal("1.50"), "\\"]},
        '{"a":[null,true,1' + "0" * 40 + ',1.50,"\\\\\\\\"]}',
    ),
    ("jsonb", "E+E-\\u0000", '"E+E-\\\\\\\\u0000"'),
]


@pytest.mark.parametrize(("kind", "value", "text"), FITTING, ids=[f"{n}-{fit[0]}" for n, fit in enumerate(FITTING)])
def test_a_fitting_spelling_becomes_its_text(kind: Type, value: Any, text: str) -> None:
    """Each accepted spelling becomes this text of COPY."""
    assert converter(Column(type=kind))(value) == text


@pytest.mark.parametrize(
    ("options", "value", "reason"),
    [
        ({"type": "numeric", "min": "0.10"}, Decimal("0.09"), "expected 0.10 or more"),
        ({"type": "integer", "above": 0}, 0, "expected more than 0"),
        ({"type": "double", "max": 1.5}, 2, "expected 1.5 or less"),
        ({"type": "time", "min": "08:00"}, "07:59:59.9999994", "expected 08:00 or more"),
        ({"type": "time", "above": "08:00"}, "08:00:00.0000004", "expected more than 08:00"),
        ({"type": "time", "max": "22:00"}, "24:00", "expected 22:00 or less"),
        ({"type": "text", "max_length": 2}, "abc", "expected at most 2 characters, got 3"),
        ({"type": "text", "one_of": ("a", "b")}, "c", "expected one of a, b, got something else"),
    ],
)
def test_a_violated_check_reports_its_expectation(options: dict[str, Any], value: Any, reason: str) -> None:
    """The reason of a violated check quotes the definition, never the value."""
    with pytest.raises(Misfit) as caught:
        converter(Column(**options))(value)
    assert (caught.value.sqlstate, caught.value.reason) == ("23514", reason)


def test_any_value_as_text() -> None:
    """A misfit is kept as text: scalars as they are written, objects and arrays as JSON."""
    assert [json_text(value) for value in ("a", True, Decimal("1e3"), 5)] == ["a", "true", "1000", "5"]
    assert json_text({"a": [1, None]}) == '{"a":[1,null]}'
    for value in ({"a": "\x00"}, ["\ud83d"], Decimal("1e200000")):
        with pytest.raises(Misfit):
            json_text(value)
