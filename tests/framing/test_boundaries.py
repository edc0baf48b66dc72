import json
from collections.abc import Callable
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.ingestion.framing import boundaries
from etl.ingestion.framing.boundaries import NotJSON, is_whole_record, line_span, may_continue, piece_spans, value_end
from etl.ingestion.values import Piece, PieceShape

quick = settings(deadline=None, derandomize=True, max_examples=150)

TEXT = st.text(
    st.sampled_from('},{:[]"\\/ \n\t\u00e9\u20ac\U0001f69aabu0E') | st.characters(codec="utf-8"), max_size=12
)
NUMBER = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUE = st.recursive(
    st.none() | st.booleans() | NUMBER | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@st.composite
def json_texts(draw: st.DrawFn, values: st.SearchStrategy[Any] = VALUE) -> str:
    """Draw a JSON value in one of its spellings, as the latin-1 text of its UTF-8 bytes."""
    text = json.dumps(
        draw(values),
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, 0, 3])),
        separators=draw(st.sampled_from([None, (",", ":"), (" ,\r\n", "\t: ")])),
    )
    return text.encode().decode("latin-1")


@quick
@given(json_texts(), st.sampled_from(["", " ", "\n{", "]", "}", ",", '"x']), st.sampled_from(["", "  ", '[{"']))
def test_a_value_ends_where_it_ends(value: str, after: str, before: str) -> None:
    """The end of a value is found, whatever text is before and after it."""
    assert value_end(before + value + after, len(before)) == len(before) + len(value)


@quick
@given(json_texts())
def test_a_value_cut_anywhere_is_reported_as_cut_off(value: str) -> None:
    """Every prefix of a value is reported as cut off; the prefix of a number may be a number."""
    is_number = value[0] in "-0123456789"
    for length in range(len(value)):
        beginning = value[:length]
        if is_number and beginning[-1:].isdigit():
            assert value_end(beginning, 0) == length
        elif not is_number or beginning in {"", "-"}:
            with pytest.raises(NotJSON) as caught:
                value_end(beginning, 0)
            assert caught.value.cut_off, beginning


@quick
@given(NUMBER.map(json.dumps))
def test_a_number_cut_anywhere_may_continue(value: str) -> None:
    """A number at the end of the text may continue; a number before other text is complete."""
    for length in range(1, len(value)):
        text = f"[{value[:length]}"
        if value[:length] != "-":
            assert may_continue(text, 1, value_end(text, 1))
    for after in (",", "]", " ", "\n", "}"):
        assert not may_continue(value + after, 0, value_end(value + after, 0))
    assert not may_continue('{"a":1}', 0, 7)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("NaN", "nan is not json"),
        ("[1, -Infinity]", "-infinity is not json"),
        ("Infinity", "infinity is not json"),
        ("nope", "expecting value"),
        ("'a'", "expecting value"),
        ("[1,]", ("expecting value", "illegal trailing comma")),  # Python 3.13 reports the latter
        ('{"a":1,}', ("expecting property name", "illegal trailing comma")),
        ('{"a" 1}', "expecting ':' delimiter"),
        ("{1:1}", "expecting property name"),
        ('["\n"]', "invalid control character"),
        ('"\\x"', "invalid \\escape"),
        ('"\\u12g4"', "invalid \\uxxxx escape"),
        ("[1 2]", "expecting ',' delimiter"),
        ("[01]", "expecting ',' delimiter"),
        ("[+1]", "expecting value"),
        ("[.5]", "expecting value"),
        ("[1.]", "expecting ',' delimiter"),
        ("[1}", "expecting ',' delimiter"),
        ("\u00a01", "expecting value"),
    ],
)
def test_what_is_not_json_is_refused(text: str, reason: str | tuple[str, ...]) -> None:
    """Text that only Python accepts, or no parser, is refused and is not reported as cut off."""
    with pytest.raises(NotJSON) as caught:
        value_end(text, 0)
    assert caught.value.reason.lower().startswith(reason)
    assert not caught.value.cut_off


@pytest.mark.parametrize("opening", ["[", '{"a":', '[{"]":'])
def test_a_value_ends_however_deep_it_is_nested(opening: str) -> None:
    """The end of a value is found at any number of levels, and the interpreter does not overflow."""
    closing = "".join({"[": "]", "{": "}"}[character] for character in reversed(opening) if character in "[{")
    for times in (100, 1_000, 100_000):
        deep = opening * times + "1" + closing * times
        assert value_end(f"[1,{deep}]", 3) == 3 + len(deep)
        assert is_whole_record(f'{{"x":{deep}}}'.encode())
        with pytest.raises(NotJSON) as caught:
            value_end(opening * times, 0)
        assert caught.value.cut_off


JSON = st.recursive(
    st.sampled_from(["1", "-2.5e3", "null", '"a"', '"]\\\\"', '"[\\""', "true"]),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]")
        | st.lists(inner, max_size=3).map(lambda values: "{" + ",".join(f'"{{":{value}' for value in values) + "}")
    ),
    max_leaves=20,
)


@quick
@given(
    JSON.filter(lambda text: text[0] in "[{"),
    st.integers(1, 4),
    st.integers(0, 400),
    st.sampled_from(["", "", "}", "]", "[", "{", '"', ",", "\\", "1", " 1", "NaN", None]),
)
def test_layers_are_scanned_as_the_whole_is(text: str, levels: int, at: int, changed: str | None) -> None:
    """Layer by layer, a value has the end that the decoder finds, and text that is no JSON is refused."""
    at %= len(text)
    text = text[: max(at, 1)] if changed is None else text[:at] + changed + text[at + 1 :] if changed else text
    if text[:1] not in {"[", "{"}:
        return

    def outcome(end: Callable[[str, int], int]) -> tuple[str, int]:
        try:
            return "end", end(text, 0)
        except NotJSON as error:
            return ("cut off" if error.cut_off else "not JSON"), 0

    with patch.object(boundaries, "LAYER_LEVELS", levels):
        layered = outcome(boundaries._deep_end)
    whole = outcome(value_end)
    # A fault may hide where the value ends: then it is a fault by either way, but not always the same one.
    assert layered == whole or (layered[0] != "end" and whole[0] != "end")


def test_many_brackets_are_not_deep() -> None:
    """Brackets side by side and brackets in strings do not count as nesting."""
    for text in (
        json.dumps([[]] * 1000),
        json.dumps(["[" * 1000]),
        json.dumps(["\\" + '"[' * 500]),
        '["' + "[{" * 500 + '"]',
    ):
        assert value_end(text, 0) == len(text)


def test_a_string_of_megabytes_is_passed_once() -> None:
    """A large string, with escapes and brackets, is a value like any other."""
    text = json.dumps(["a\\" * 500_000, "[" * 1000, "\n" * 500_000])
    assert value_end(text, 0) == len(text)


@pytest.mark.parametrize(
    ("line", "span"),
    [
        ('{"a":1}  \r', (0, 7, "")),
        ('{"a":1}{"b":2}', (0, 7, "")),
        ("12", (0, 2, "expected an object, got another JSON value")),
        ('{"a":1 \t\r', (0, 6, "not JSON: the value does not end on its line, at character 7")),
        ('{"a":"x} ', (0, 8, "not JSON: the value does not end on its line, at character 6")),
        ('{"a":NaN} {"b":1}', (0, 17, "not JSON: NaN or an infinity, which JSON does not have, at character 1")),
        ('{"a" 1}\r', (0, 7, "not JSON: expecting ':' delimiter, at character 6")),
        ("[" * 100_000, (0, 100_000, "not JSON: the value does not end on its line, at character 1")),
    ],
)
def test_a_line_is_a_record_or_all_of_it_is_a_fault(line: str, span: tuple[int, int, str]) -> None:
    """A line begins with one JSON value, or all of it is a fault; other lines have no effect."""
    for before, after in (("", ""), ("xx\n", "\n1}\n"), ("", '\n"}')):
        start, end, fault = line_span(before + line + after, len(before), len(before + line))
        assert (start - len(before), end - len(before), fault) == span


@pytest.mark.parametrize(
    ("shape", "data", "spans"),
    [
        ("array", b'{"a":1} , {"b":"},{"}\n,3', [(0, 7), (10, 21), (23, 24)]),
        ("array", b"[],{}", [(0, 2), (3, 5)]),
        ("values", b'{"a":1}{"b":\n2} 3 4', [(0, 7), (7, 15), (16, 17), (18, 19)]),
        ("lines", b'{"a":1}\n\n \r\nbad }\r\n{"b":2} {"c":3} x y\n', [(0, 7), (12, 17), (19, 26), (27, 34), (35, 38)]),
        ("lines", b'{"a":\n1}\n{"b":2}', [(0, 5), (6, 7), (7, 8), (9, 16)]),
        ("array", b"", []),
    ],
)
def test_each_record_of_a_piece_has_its_span(shape: PieceShape, data: bytes, spans: list[tuple[int, int]]) -> None:
    """The span of each record of a piece is its bytes, whatever separates it from the next."""
    piece = Piece(offset=7, count=len(spans), first_record=1, parts=(data,), shape=shape)
    assert [(span.start, span.end) for span in piece_spans(piece)] == spans
