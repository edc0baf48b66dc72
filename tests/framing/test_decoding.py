import json
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.ingestion.framing.decoding import decode, decode_one
from etl.ingestion.values import Fault, Piece, PieceShape

quick = settings(deadline=None, derandomize=True, max_examples=150)

SHAPES: dict[PieceShape, str] = {"array": " ,\n", "lines": "\r\n", "values": " "}

NO_OBJECT = Fault(sqlstate="22P02", reason="expected an object, got another JSON value")

TEXT = st.text(st.sampled_from('},{:[]"\\/ \n\t\u00e9\u20ac\U0001f69a\x00') | st.characters(codec="utf-8"), max_size=10)
INTEGER = st.integers() | st.integers(-(10**40), 10**40)


@st.composite
def spelled(draw: st.DrawFn, depth: int = 2) -> tuple[str, Any]:
    """Draw a JSON value: its text, and the value to which it must be decoded."""
    kind = draw(st.sampled_from(["literal", "integer", "decimal", "text", *(["object", "array"] if depth else [])]))
    match kind:
        case "literal":
            return draw(st.sampled_from([("null", None), ("true", True), ("false", False), ("-0", 0)]))
        case "integer":
            integer = draw(INTEGER)
            return str(integer), integer
        case "decimal":
            digits, fraction, exponent = draw(st.integers()), draw(st.integers(0)), draw(st.integers(-400, 400))
            text = f"{digits}.{fraction}" + draw(st.sampled_from(["", f"e{exponent}", f"E{exponent:+}"]))
            return text, Decimal(text)
        case "text":
            text = draw(TEXT)
            return json.dumps(text, ensure_ascii=draw(st.booleans())), text
        case "array":
            elements = draw(st.lists(spelled(depth - 1), max_size=3))
            return f"[{' , '.join(text for text, _ in elements)}]", [value for _, value in elements]
        case _:
            return draw(objects(depth - 1))


@st.composite
def objects(draw: st.DrawFn, depth: int = 2) -> tuple[str, dict[str, Any]]:
    """Draw a JSON object; its members may come twice."""
    members = draw(st.lists(st.tuples(TEXT, spelled(depth)), max_size=4))
    text = ", ".join(f"{json.dumps(name)} :{text}" for name, (text, _) in members)
    return f"{{{text}}}", {name: value for name, (_, value) in members}


def _piece(shape: PieceShape, texts: Sequence[str | bytes]) -> Piece:
    data = SHAPES[shape].encode().join(text if isinstance(text, bytes) else text.encode() for text in texts)
    return Piece(offset=5, count=len(texts), first_record=1, parts=(data,), shape=shape)


def _types(value: Any) -> Any:
    """Return a value with the type of each part, because 1, Decimal(1) and True are equal in Python."""
    if isinstance(value, dict):
        return {name: _types(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_types(each) for each in value]
    return type(value), str(value)


@quick
@given(st.lists(objects(), max_size=5))
def test_records_are_decoded_exactly(texts: list[tuple[str, dict[str, Any]]]) -> None:
    """Pieces of each shape give the same records, with every digit of a number and every character of a text."""
    for shape in SHAPES:
        found = list(decode(_piece(shape, [text for text, _ in texts])))
        assert _types(found) == _types([value for _, value in texts])
    for text, value in texts:
        assert _types(decode_one(text.encode())) == _types(value)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"a":"\\ud83d"}', {"a": "\ud83d"}),
        ('{"a":"\\udc00\\ud83d"}', {"a": "\udc00\ud83d"}),
        ('{"a":"\\\\ud83d\\udc00"}', {"a": "\\ud83d\udc00"}),
        ('{"a":"\\ud83d\\\\udc00"}', {"a": "\ud83d\\udc00"}),
        ('{"\\ud83d":"\\ud83d\\ude9a"}', {"\ud83d": "\U0001f69a"}),
        ('{"a":"\\u0000"}', {"a": "\x00"}),
        (b'{"a":"\xff"}', Fault(sqlstate="22021", reason="invalid UTF-8 at byte 6 of the record")),
        (b'{"a":"\xed\xa0\x80"}', Fault(sqlstate="22021", reason="invalid UTF-8 at byte 6 of the record")),
        (b'{"\xc3\xa9\xc3":1}', Fault(sqlstate="22021", reason="invalid UTF-8 at byte 4 of the record")),
        ("[{}]", NO_OBJECT),
        ("12", NO_OBJECT),
        ("null", NO_OBJECT),
        ('"text"', NO_OBJECT),
    ],
)
def test_a_fault_falls_on_its_record_alone(shape: PieceShape, text: str | bytes, found: Any) -> None:
    """A value that ijson would change is kept, and text that is not a record is a fault; its neighbours are kept."""
    for before, after in ((0, 0), (1, 2), (3, 1)):
        texts = ['{"a":"\\u00e9",  "n":1.50}'] * before + [text] + ['{"b":"}\\ud83d\\ude9a"}'] * after
        records = list(decode(_piece(shape, texts)))
        assert records[before] == found
        assert records[:before] == [{"a": "é", "n": Decimal("1.50")}] * before
        assert records[before + 1 :] == [{"b": "}\U0001f69a"}] * after


@pytest.mark.parametrize(
    "line", ['{"a":NaN}', "-Infinity", '{"a":1', '{"a":1}}', "nope", '{"a":"\x01"}', "[" * 100_000]
)
def test_a_bad_line_is_a_fault_in_its_place(line: str) -> None:
    """Only the line that is not JSON is refused; a complete record at its beginning is a record of its own."""
    records = list(decode(_piece("lines", ['{"a":1}', line, '{"a":2}'])))
    assert records[0] == {"a": 1}
    assert records[-1] == {"a": 2}
    faults = [record for record in records if isinstance(record, Fault)]
    assert [fault.sqlstate for fault in faults] == ["22P02"]
    assert faults[0].reason.startswith(("not JSON: ", "objects or arrays are nested deeper"))
    assert len(records) == (4 if line == '{"a":1}}' else 3)


def test_lines_that_make_a_value_together_are_lines() -> None:
    """A value over two lines is two bad lines, although it would be one record in a sequence of values."""
    records = list(decode(_piece("lines", ['{"a":[', "]}", '{"b":1}'])))
    assert [isinstance(record, Fault) for record in records] == [True, True, False]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_long_integer_keeps_its_digits(shape: PieceShape) -> None:
    """An integer of more than 4,300 digits is decoded exactly, in less than quadratic time."""
    lengths = (4300, 4301, 131_072, 1_000_000)
    texts = ['{"a":-' + "9" * length + "}" for length in lengths]
    values = [record["a"] for record in decode(_piece(shape, texts)) if isinstance(record, dict)]
    assert [type(value) for value in values] == [int, Decimal, Decimal, Decimal]
    assert [str(value) for value in values] == ["-" + "9" * length for length in lengths]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("text", "sign"), [("12.5e99999999999999999999", 1), ("-3E-99999999999999999999", -1)])
def test_an_exponent_beyond_decimal_is_out_of_every_range(shape: PieceShape, text: str, sign: int) -> None:
    """A number that Decimal cannot represent becomes a number of its sign that no column can store, and never 0."""
    before, record, after = decode(_piece(shape, ['{"a":1.5}', f'{{"a":{text}}}', '{"a":2.5}']))
    assert [before, after] == [{"a": Decimal("1.5")}, {"a": Decimal("2.5")}]
    assert isinstance(record, dict)
    assert record["a"].copy_abs().compare(Decimal("1e131072" if sign > 0 else "1e-16384")) == sign
    assert record["a"].is_signed() == (sign < 0)
    assert list(decode(_piece(shape, ['{"a":0.0e99999999999999999999}'])))[0] == {"a": 0}  # noqa: RUF015 - all is read


@pytest.mark.parametrize("shape", SHAPES)
def test_of_members_with_one_name_the_last_counts(shape: PieceShape) -> None:
    """Both decoders keep the last of two members with one name."""
    for mark in ("x", "\\ud83d"):
        [record] = decode(_piece(shape, [f'{{"a":1,"b":{{"c":1,"c":2}},"a":3,"m":"{mark}"}}']))
        assert record == {"a": 3, "b": {"c": 2}, "m": json.loads(f'"{mark}"')}


@pytest.mark.parametrize(
    ("data", "sqlstate"),
    [
        (b"", "22P02"),
        (b"{", "22P02"),
        (b"{} {}", "22P02"),
        (b"[]", "22P02"),
        (b'{"a":NaN}', "22P02"),
        (b"\xff", "22021"),
    ],
)
def test_what_is_no_record_alone_is_a_fault(data: bytes, sqlstate: str) -> None:
    """Bytes that are not one record are a fault, never an exception."""
    fault = decode_one(data)
    assert isinstance(fault, Fault)
    assert fault.sqlstate == sqlstate


def test_an_empty_piece_holds_no_record() -> None:
    """A piece without records gives none."""
    assert [list(decode(_piece(shape, []))) for shape in SHAPES] == [[], [], []]
