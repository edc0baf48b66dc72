import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.datasets.paths import ValuePath, parse, spelling, steps


@given(st.lists(st.text(min_size=0, max_size=6) | st.sampled_from(["#", "^", "@", "0", "a.b", '"', "\\"]), min_size=1))
def test_a_written_path_is_read_again(names: list[str]) -> None:
    """Any names of members can be written as a path and read from it again."""
    assert steps(spelling(tuple(names))) == tuple(names)


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "\u202egpj", "line\nend"])
def test_a_name_that_no_text_can_hold_is_escaped(name: str) -> None:
    """NUL, a lone surrogate and characters that change the display of a line are written as JSON escapes."""
    assert spelling((name,)).isascii()
    assert spelling((name,)).isprintable()
    assert steps(spelling((name,))) == (name,)


def test_signs_and_positions_are_read() -> None:
    """Each sign and each step to an outer object is recognised."""
    assert parse("legs.0.code") == ValuePath(0, ("legs", 0, "code"))
    assert parse("^.^.id") == ValuePath(2, ("id",))
    assert [parse(text) for text in (".", "#", "@", "^", "^.^", "^.#")] == [
        ValuePath(0, (), "."),
        ValuePath(0, (), "#"),
        ValuePath(0, (), "@"),
        ValuePath(1, (), "."),
        ValuePath(2, (), "."),
        ValuePath(1, (), "#"),
    ]
    assert parse("a.07") == ValuePath(0, ("a", "07"))


@pytest.mark.parametrize(
    "text", ["", "a.", ".a", "a..b", "^.", "^.^.", "a.#", "#.a", "@.a", "^.@", "^..", '"a', '"a"b', "a.^"]
)
def test_an_invalid_path_is_refused(text: str) -> None:
    """An invalid path is refused with a message."""
    with pytest.raises(ValueError, match="expected a path such as"):
        parse(text)
