import pytest
from hypothesis import given
from hypothesis import strategies as st

from etl.datasets.paths import ValuePath, parse, spelling, steps


@given(st.lists(st.text(min_size=0, max_size=6) | st.sampled_from(["#", "^", "@", "0", "a.b", '"', "\\"]), min_size=1))
def test_a_spelled_path_is_read_again(names: list[str]) -> None:
    """Any names of members can be spelled as a path, and are read from it again."""
    assert steps(spelling(tuple(names))) == tuple(names)


@pytest.mark.parametrize("name", ["\ud800", "a\0b", "\u202egpj", "line\nend"])
def test_a_name_that_no_text_can_hold_is_spelled_in_ascii(name: str) -> None:
    """NUL, half a surrogate pair, and what changes how a line is shown are spelled by JSON's escapes."""
    assert spelling((name,)).isascii()
    assert spelling((name,)).isprintable()
    assert steps(spelling((name,))) == (name,)


def test_signs_and_positions_are_read() -> None:
    """Each sign, and each way outwards, is read for what it is."""
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
def test_what_is_no_path_is_refused(text: str) -> None:
    """What leads nowhere is refused with a sentence."""
    with pytest.raises(ValueError, match="expected a path such as"):
        parse(text)
