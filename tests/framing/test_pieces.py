import gzip
import json
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import SourceError
from etl.ingestion.constants import BLOCK_BYTES, MAX_NESTING, READ_BYTES
from etl.ingestion.framing import boundaries, decoding, needles, piece_builder, pieces, window
from etl.ingestion.framing.boundaries import piece_spans
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.framing.spans import spans
from etl.ingestion.framing.splitting import divided
from etl.ingestion.sources.stream import opened
from etl.ingestion.values import Fault, Piece, Source
from etl.settings import Format
from tests.support.streams import Bytes

quick = settings(deadline=None, derandomize=True, max_examples=50)

TEXT = st.text(
    st.sampled_from('},{:[]"\\/ \n\r\t\u00e9\u20ac\U0001f69aitem0') | st.characters(codec="utf-8"), max_size=10
)
VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)
RECORD = st.dictionaries(TEXT, VALUE, max_size=4)
BLANK = st.text(" \t\r\n", max_size=3)


@dataclass(frozen=True)
class Document:
    """A source, how it is to be cut, and where its records are."""

    data: bytes
    places: Sequence[tuple[int, int]]
    records: str = "item"
    format: Format = "auto"

    def cut(self, batch_rows: int) -> list[Piece]:
        """Cut it."""
        how = CutOptions(format=self.format, records_path=self.records, batch_rows=batch_rows)
        return list(cut(Bytes(self.data), how))


def _built(parts: Sequence[str | tuple[str]], **options: Any) -> Document:
    """Build a document from its parts; a part in a tuple is a record."""
    data, places = b"", []
    for part in parts:
        if isinstance(part, tuple):
            begin = len(data)
            data += part[0].encode()
            places.append((begin, len(data)))
        else:
            data += part.encode()
    return Document(data, places, **options)


@st.composite
def spelled(draw: st.DrawFn, values: st.SearchStrategy[Any], *, one_line: bool = False) -> str:
    """Draw a JSON value in one of its spellings."""
    return json.dumps(
        draw(values),
        ensure_ascii=draw(st.booleans()),
        indent=None if one_line else draw(st.sampled_from([None, 0, 2])),
        separators=draw(st.sampled_from([None, (",", ":"), (" ,\t", " : ")])),
    )


@st.composite
def arrays(draw: st.DrawFn, *, least: int = 0) -> list[str | tuple[str]]:
    """Draw an array of records as parts."""
    parts: list[str | tuple[str]] = ["[", draw(BLANK)]
    for number, record in enumerate(draw(st.lists(spelled(RECORD | VALUE), min_size=least, max_size=6))):
        parts += [*([draw(BLANK), ",", draw(BLANK)] if number else []), (record,)]
    return [*parts, draw(BLANK), "]"]


@st.composite
def array_documents(draw: st.DrawFn) -> Document:
    """Draw an array at the top, below members, or several at one path."""
    start, end = draw(st.sampled_from(["", "\ufeff"])) + draw(BLANK), draw(BLANK)
    around = draw(spelled(st.dictionaries(st.sampled_from(["a", "b.c", "item", "][", '"']), VALUE, max_size=2)))
    opening = around[: around.rindex("}")] + ("," if len(around.strip(" \n{}")) else "")
    paths = ["item", "rows.item", "a.rows.item", "item.item", "days.item.rows.item", "pages", "rows.item of pages"]
    match draw(st.sampled_from([*paths, "days.*.item"])):
        case "item" as path:
            parts = [start, *draw(arrays()), end]
        case "rows.item" as path:
            parts = [start, opening, '"rows" :', *draw(arrays()), ',"others": [[{"rows":[1]}]], "n":1e5}', end]
        case "a.rows.item" as path:
            parts = [start, '{"rows":[7],"a":', opening, '"rows":', *draw(arrays()), "}, ", '"x":[]}', end]
        case "item.item" as path:
            parts = [start, "[", *draw(arrays()), ", ", *draw(arrays()), ",{},3,", *draw(arrays()), "]", end]
        case "pages":
            path = "item"
            parts = [start, *draw(arrays()), draw(BLANK), *draw(arrays()), start, *draw(arrays()), end]
        case "rows.item of pages":
            path = "rows.item"
            page = ['{"page":1,"rows":', *draw(arrays()), ',"x":{"rows":[1]}}', draw(BLANK)]
            parts = [start, *page, start, '{"rows":null}', *page, end]
        case "days.*.item" as path:
            one, two = draw(arrays()), draw(arrays())
            parts = [start, opening, '"days":{"1":', *one, ',"n":{"m":[1]},"s":3,"2":', *two, "}}", end]
        case path:
            one, two = draw(arrays()), draw(arrays())
            parts = [start, '{"days":[{"rows":', *one, '},{"day":[1]},{"rows":', *two, ',"n":{"rows":[2]}}]}', end]
    return _built(parts, records=path, format=draw(st.sampled_from(["auto", "array"] if path == "item" else ["auto"])))


@st.composite
def line_documents(draw: st.DrawFn) -> Document:
    """Draw records, one per line, with blank lines and lines that are not JSON."""
    bad = st.sampled_from(['{"a":', "x y", '{"a":1,}', '{"a":NaN}', "}", '"x', '{"a":"\x01"}', "[1,2", "tru", "-", "é"])
    record = spelled(RECORD, one_line=True)
    parts: list[str | tuple[str]] = [draw(BLANK), (draw(record),), draw(st.sampled_from([" \r", ""])), "\n"]
    mark = st.sampled_from(["", "", "\ufeff"])
    for line in draw(st.lists(st.lists(record, max_size=2) | bad, max_size=6)):
        for value in [line] if isinstance(line, str) else line:
            parts += [draw(st.sampled_from(["", "\t "])), draw(mark), (value,)]
        parts += [draw(st.sampled_from(["\n", "\r\n", " \n\n \n"]))]
    return _built([*parts, (draw(record),), draw(BLANK)], format=draw(st.sampled_from(["auto", "ndjson"])))


@st.composite
def value_documents(draw: st.DrawFn) -> Document:
    """Draw records in a sequence, on separate lines or not."""
    parts: list[str | tuple[str]] = [("{ }",), draw(st.sampled_from(["", " "])), (draw(spelled(RECORD)),)]
    for record in draw(st.lists(spelled(RECORD), max_size=5)):
        parts += [draw(BLANK), draw(st.sampled_from(["", "\ufeff"])), (record,)]
    return _built([*parts, draw(BLANK)])


@st.composite
def alike_documents(draw: st.DrawFn) -> Document:
    """Draw many records with the same text between them, as in an export; their values may contain this text."""
    name = draw(st.sampled_from(["a", "id", "é"]))
    meeting = draw(st.sampled_from(["},{", "}, {", "},\n  {\n    ", "}\n,{ "]))
    inside = st.sampled_from(
        [
            "1",
            '"x"',
            "[[],{}]",
            json.dumps(f'{meeting}"{name}":1'),
            '"\\"}"',
            f'[{{"{name}":1{meeting}"{name}":2}}]',
            f'{{"{name}":{{"{name}":1}}}}',
            "[" * 90 + "]" * 90,
            "[" * 150 + "]" * 150,
        ]
    )
    lines = draw(st.booleans())
    parts: list[str | tuple[str]] = ["" if lines else "["]
    members = draw(st.lists(st.lists(inside, min_size=1, max_size=3), min_size=2, max_size=40))
    for number, values in enumerate(members):
        begin = meeting.partition("{")[2] if not lines else ""
        first = draw(st.sampled_from([name, name, name, name, "other"]))
        body = ",".join(f'"{first if place == 0 else place}":{value}' for place, value in enumerate(values))
        if lines:
            body = body.replace("\n", " ")
        between = "\n" if lines else meeting[1 : meeting.index("{")]
        parts += [between if number else "", ("{" + begin + body + "}",)]
    return _built([*parts, "\n" if lines else "]"])


DOCUMENTS = array_documents() | line_documents() | value_documents() | alike_documents()


@contextmanager
def _read_in(size: int) -> Iterator[None]:
    """Read this many bytes at a time; with few bytes, blocks are small, too, and end at any place."""
    block = min(BLOCK_BYTES, 16 * size)
    with (
        patch.object(window, "READ_BYTES", size),
        patch.object(window, "BLOCK_BYTES", block),
        patch.object(piece_builder, "BLOCK_BYTES", block),
    ):
        yield


def _places(cut_pieces: Sequence[Piece]) -> list[tuple[int, int]]:
    """Return the places of the records of pieces in the source."""
    return [(piece.offset + span.start, piece.offset + span.end) for piece in cut_pieces for span in piece_spans(piece)]


def _assert_whole(document: Document, found: Sequence[Piece]) -> None:
    """Assert that the pieces have all records of the source, numbered without a gap."""
    assert _places(found) == document.places
    number = 1
    for piece in found:
        assert piece.stored == document.data[piece.offset : piece.end]
        assert piece.first_record == number
        assert [span[:2] for _, span in spans(piece)] == [span[:2] for span in piece_spans(piece)]
        assert piece.count == len(list(piece_spans(piece))) == len(list(decoding.decode(piece)))
        number += piece.count


def _is_object(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data, parse_constant=int), dict)
    except ValueError:
        return False


def _until_fault(data: bytes, document: Document) -> tuple[list[Piece], str]:
    """Cut other bytes with the options of a document; return the pieces, and the fault that ended them."""
    how = CutOptions(format=document.format, records_path=document.records, batch_rows=2)
    found = []
    try:
        for piece in cut(Bytes(data), how):
            found.append(piece)  # noqa: PERF402 - what is before the fault is wanted
    except SourceError as error:
        return found, str(error)
    return found, ""


@quick
@given(DOCUMENTS, st.sampled_from([1, 2, 3, 100]), st.sampled_from([1, 2, 5, 64, READ_BYTES]))
def test_pieces_are_the_records_of_the_source(document: Document, batch_rows: int, read_bytes: int) -> None:
    """Each record is given once, with its offset and number, whatever text is around and between the records."""
    with _read_in(read_bytes):
        found = document.cut(batch_rows)
    _assert_whole(document, found)
    assert all(piece.count <= batch_rows for piece in found)


def _properties(piece: Piece) -> tuple[int, int, int, bytes, bytes]:
    """Return the properties of a piece that do not depend on how it was read."""
    return piece.offset, piece.count, piece.first_record, piece.data, piece.hash


@quick
@given(DOCUMENTS, st.sampled_from([1, 2, 5]), st.sampled_from([3, READ_BYTES]), st.data())
def test_pieces_divide_at_any_record(document: Document, rows: int, read_bytes: int, data: st.DataObject) -> None:
    """The parts of a divided piece are what the cutter gives for these records, with their marks."""
    with _read_in(read_bytes):
        found = document.cut(rows)
    last = found[-1].last_record if found else 0
    ends = sorted(data.draw(st.sets(st.integers(1, max(1, last)), max_size=4)))
    loaded = [(first, end) for first, end in zip(ends[::2], ends[1::2], strict=False)]
    parts = [part for piece in found for part in divided(piece, loaded)]
    _assert_whole(document, [part for part, _ in parts])
    numbers = [
        number for part, is_loaded in parts if is_loaded for number in range(part.first_record, part.last_record + 1)
    ]
    assert numbers == [number for first, end in loaded for number in range(first, min(end, last) + 1)]
    ones = {mark.records: mark for piece in document.cut(1) if (mark := piece.end_mark)}
    assert [part.end_mark for part, _ in parts] == [ones[part.last_record] for part, _ in parts]
    assert [mark for part, _ in parts for mark in part.marks] == [mark for piece in found for mark in piece.marks]


@quick
@given(DOCUMENTS, st.data())
def test_a_source_cut_anywhere_gives_the_records_before(document: Document, data: st.DataObject) -> None:
    """A source that is cut off gives all its complete records, and then a SourceError."""
    length = data.draw(st.integers(0, max(0, len(document.data) - 1)))
    whole = [place for place in document.places if place[1] <= length and _is_object(document.data[slice(*place)])]
    with _read_in(data.draw(st.sampled_from([3, READ_BYTES]))):
        found, fault = _until_fault(document.data[:length], document)
    objects = [place for place in _places(found) if _is_object(document.data[slice(*place)])]
    assert objects == whole
    if found and found[0].shape == "array":
        assert bool(fault) == (length < len(document.data.rstrip()))


EXAMPLES = [
    _built(["\ufeff[", ('{"a":"},{"}',), " , ", ('{"b":[1,{"c":null}]}',), ",", ("3",), ",", ('{"d":-1.5e3}',), "]\n"]),
    _built(
        ['{"n":[0],"s":{"rows":[', ('{"a":"\\u00e9"}',), ",", ("{}",), '],"x":[true]},"z":"é"}'], records="s.rows.item"
    ),
    _built(["[[", ('{"a":1}',), "],[", ('{"b":2}',), ",", ('{"b":3}',), "]]"], records="item.item"),
    _built([('{"a":"x\\n"}',), "\n", ('{"b":1}',), "\r\n\n", ("{bad}",), "\n", ('{"c":[]}',), "\n"]),
    _built([("{}",), ('{"a":\n1}',), " ", ('{"b":"]"}',)]),
]


@pytest.mark.parametrize("document", EXAMPLES, ids=range(len(EXAMPLES)))
def test_every_cut_and_every_spoiled_byte_is_a_source_error_or_data(document: Document) -> None:
    """A missing or changed byte gives other records or a SourceError, and never changes the records before it."""
    assert _until_fault(document.data, document)[1] == ""
    for at in range(len(document.data)):
        byte = document.data[at]
        others = {byte ^ 1, byte ^ 0x20, byte ^ 0x80, *b'"{}[],:\\ \n\x00e9-'} - {byte}
        spoiled = [document.data[:at] + bytes([other]) + document.data[at + 1 :] for other in others]
        for data in (document.data[:at], document.data[:at] + document.data[at + 1 :], *spoiled):
            found, fault = _until_fault(data, document)
            assert all(piece.count == len(list(decoding.decode(piece))) for piece in found)
            assert all(piece.stored == data[piece.offset : piece.end] for piece in found)
            before = [place for place in document.places if place[1] < at]
            assert _places(found)[: len(before)] == before
            assert fault or found or data[: len(document.data)].strip(b" \n\xef\xbb\xbf") in (b"[]", b"[[],[]]")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "expected JSON, the source is empty, at record 1, byte 0"),
        (b"\xef\xbb\xbf \n", "expected JSON, the source is empty, at record 1, byte 0"),
        (
            b"  <a></a>",
            "expected JSON that begins with [ or {, got what looks like XML, at record 1, byte 2",
        ),
        (b"\xff\xfe[\x00", "expected JSON that begins with [ or {, got something else, at record 1, byte 0"),
        (
            b"%PDF-1",
            "expected JSON that begins with [ or {, got what looks like PDF, at record 1, byte 0",
        ),
        (b"[", "the array is cut off before its ], at record 1, byte 1"),
        (b"[ {}", "the array is cut off before its ], at record 2, byte 4"),
        (b"[{},", "the source is cut off in this record, at record 2, byte 4"),
        (b"[{}, 12", "the source is cut off in this record, at record 2, byte 5"),
        (b"[{},]", "not JSON: a comma before a closing bracket, at record 2, byte 4"),
        (b"[,{}]", "not JSON: expecting value, at record 1, byte 1"),
        (b"[{} {}]", "expected , or ] after a record, got something else, at record 2, byte 4"),
        (b"[{},{}}", "expected , or ] after a record, got something else, at record 3, byte 6"),
        (b'[{"a":NaN}]', "not JSON: NaN or an infinity, which JSON does not have, at record 1, byte 1"),
        (b'[{},{"a":"x]', "the source is cut off in this record, at record 2, byte 4"),
        (b"[{}] x", "not JSON around the records, at record 2, byte 6"),
        (b'[{}]{"a":1}', "document 2 of the source has no records at the records path, at record 2, byte 11"),
        (b"[{}]3[{}]", "not JSON around the records, at record 2, byte 6"),
        (b"[{}]]", "not JSON around the records, at record 2, byte 5"),
        (b"{}{},{}", "not JSON: expecting value, at record 3, byte 4"),
        (b'{}{"a":\n', "the source is cut off in this record, at record 2, byte 2"),
        (b'{}\n{"a":\n1', None),
        (b'{}\n{"a": tr', "the source is cut off in its last line, at record 2, byte 3"),
        (b'{\n"a": 1', "the source is cut off in this record, at record 1, byte 0"),
        (b'{"a":1', "the source is cut off in its last line, at record 1, byte 0"),
    ],
)
def test_a_fault_names_record_and_byte(data: bytes, message: str | None) -> None:
    """A fault of a source is reported with the file, the record and the byte."""
    _, fault = _until_fault(data, Document(data, []))
    assert fault == (f"a.json: {message}" if message else "")


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b'{"a":{"rows":[1]},"b":[]}', "no array at the records path x.item", "arrays are at: a.rows.item, b.item"),
        (b"[[1]]", "no array at the records path x.item", "arrays are at: item, item.item (--records)"),
        (b'[{"a":[]},{"a":[]}]', "no array at the records path x.item", "arrays are at: item, item.a.item (--records)"),
        (b'{"x":{"item":1}}', "no array at the records path x.item", "objects are at: x.* (--records)"),
        (b'{"x":1', "the source is cut off", "get the file again"),
        (b'{"y":[1,2],"x":nope}', "not JSON around the records", "get the file again"),
        (
            b'{"x":[{}],"y":[]}\n{"error":{}}',
            "document 2 of the source has no records at the records path",
            "arrays are at: x.item, y.item (--records)",
        ),
        (
            b'{"meta":{}}\n{"x":[{}],"y":[]}',
            "document 1 of the source has no records at the records path",
            "objects are at: meta.* (--records)",
        ),
        (b'{"y":"\xff","x":[]}', "not JSON around the records", "get the file again"),
        (b'{"y":1e99999999999999999999,"x":[]}', "not JSON around the records", "get the file again"),
        (b'{"x":' * 100_000, f"nested deeper than {MAX_NESTING:,} around the records", "get the file again"),
        (b'{"y":' + b"[" * 100_000, f"nested deeper than {MAX_NESTING:,} around the records", "get the file again"),
    ],
)
def test_a_document_without_the_array_is_reported(data: bytes, message: str, hint: str) -> None:
    """A wrong path to the records is reported with the existing paths; a fault around the records is reported, too."""
    with pytest.raises(SourceError, match=message) as caught:
        Document(data, [], records="x.item").cut(10)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith(hint)


def test_documents_that_are_records_themselves_are_no_pages() -> None:
    """A path that names a single object takes one document; the hint says what loads several."""
    with pytest.raises(SourceError, match="more than one document") as caught:
        Document(b'{"x":{"a":1}}\n{"x":{"a":2}}', [], records="x").cut(10)
    assert caught.value.hint is not None
    assert caught.value.hint.startswith("load each document by itself; if each document is a record, --records item")


def test_a_byte_order_mark_between_documents_is_found_wherever_it_is() -> None:
    """A mark of a file that was joined to another one is passed by, also where the bytes are divided."""
    for blanks in range(4080, 4100):
        document = _built(["[", ("{}",), "]" + " " * blanks + "\ufeff[", ("{}",), "]"])
        _assert_whole(document, document.cut(10))
    _, fault = _until_fault(b"[{}]\xef\xbb", Document(b"", []))
    assert fault.startswith("a.json: not JSON around the records")


def test_an_empty_array_is_no_fault() -> None:
    """An empty array is valid and holds no record, also below a member."""
    assert Document(b"[]", []).cut(10) == []
    assert Document(b" [ \n] ", []).cut(10) == []
    assert Document(b'{"rows":[],"n":0}', [], records="rows.item").cut(10) == []


def test_a_long_integer_around_the_records_is_passed() -> None:
    """An integer with more digits than Python converts by default does not prevent the load."""
    document = _built(['{"n":' + "9" * 5000 + ',"rows":[', ("{}",), "]}"], records="rows.item")
    _assert_whole(document, document.cut(1))


@pytest.mark.parametrize(
    "data", [b'{"a":{},', b'{"a":{}, ', b'{"a":{},"', b'{"a":{},"b"', b'{"a":{},"b":', b'{"a":{},"b":{']
)
def test_members_that_are_cut_off_end_the_source(data: bytes) -> None:
    """An object whose members are records may be cut off anywhere; its complete records are given."""
    found, fault = _until_fault(data, Document(data, [], records="*"))
    assert [piece.data for piece in found] == [b'"a":{}']
    assert "the source is cut off in this record, at record 2, byte " in fault


def test_members_around_the_records_may_be_deep() -> None:
    """Levels around the records cost memory that grows as they do, and do not hide the records."""
    for depth in (300, MAX_NESTING - 1):
        for opening, closing in (("[", "]"), ('{"name": ', "}")):
            deep = opening * depth + "1" + closing * depth
            document = _built(['{"y":' + deep + ',"x":{"item":[', ("{}",), "]}}"], records="x.item.item")
            _assert_whole(document, document.cut(1))


@pytest.mark.parametrize("depth", [300, MAX_NESTING, MAX_NESTING + 1])
@pytest.mark.parametrize("shape", ["array", "lines", "values", "members"])
def test_a_deep_record_is_cut_as_any_other(shape: str, depth: int) -> None:
    """A record of any number of levels has an end; a record of more than MAX_NESTING levels is a fault by itself."""
    for opening, closing in (("[", "]"), ('{"]":', "}")):
        deep = '{"a":"x","b":' + opening * (depth - 1) + "1" + closing * (depth - 1) + ',"c":2}'
        held = ('{"a":"first"}', deep, '{"a":"last"}')
        document = {
            "array": lambda held=held: _built(["[", (held[0],), ",", (held[1],), ",", (held[2],), "]"]),
            "lines": lambda held=held: _built([(held[0],), "\n", (held[1],), "\n", (held[2],), "\n"]),
            "values": lambda held=held: _built([(held[0],), " ", (held[1],), " ", (held[2],), " "]),
            "members": lambda held=held: _built(
                ["{", (f'"k":{held[0]}',), ",", (f'"l":{held[1]}',), ",", (f'"m":{held[2]}',), "}"], records="*"
            ),
        }[shape]()
        [piece] = document.cut(10)
        _assert_whole(document, [piece])
        first, record, last = decoding.decode(piece)
        assert isinstance(first, dict)
        assert isinstance(last, dict)
        if depth <= MAX_NESTING:
            assert isinstance(record, dict)
            assert (record["a"], record["c"]) == ("x", 2)
        else:
            assert isinstance(record, Fault)
            assert record.sqlstate == "54001"
            assert record.reason.startswith("objects or arrays are nested deeper than 10,000, from byte ")


@pytest.mark.parametrize("data", [b"[" * 1_000_000, b'[{"a":' * 200_000])
def test_endless_levels_are_a_record_that_is_cut_off(data: bytes) -> None:
    """Levels that never end are reported, and the interpreter does not overflow."""
    with pytest.raises(SourceError, match="the source is cut off in this record, at record 1, byte 1"):
        Document(data, []).cut(1)


def test_a_fault_in_deep_levels_keeps_its_place() -> None:
    """A deep record that is not JSON ends an array with the byte of the fault."""
    deep = '[{"a":1},{"a":' + "[" * 4_000 + "nope" + "]" * 4_000 + "}]"
    _, fault = _until_fault(deep.encode(), Document(deep.encode(), []))
    assert f"not JSON: expecting value, at record 2, byte {deep.index('nope')}" in fault


@quick
@given(st.lists(st.binary(max_size=5), max_size=6), st.integers(0, 31), st.integers(0, 31))
def test_a_part_of_a_piece_is_a_part_of_its_bytes(parts: list[bytes], begin: int, end: int) -> None:
    """A part of a piece is the same bytes as if its parts were joined, wherever it begins and ends."""
    piece = Piece(offset=0, count=0, first_record=1, parts=tuple(parts), shape="array")
    assert piece.between(begin, end) == b"".join(parts)[begin:end] == piece.data[begin:end]
    assert piece.length == len(piece.data)


@pytest.mark.parametrize(("before", "between", "after"), [("[", ",", "]"), ("", "\n", "\n")])
def test_the_first_pieces_are_smaller(before: str, between: str, after: str) -> None:
    """Each piece has at most twice as many records as the one before it, up to the batch size."""
    record = '{"a":1}'
    data = f"{before}{between.join([record] * 5000)}{after}".encode()
    how = CutOptions(format="auto", records_path="item", batch_rows=1000, first_rows=100)
    found = list(cut(Bytes(data), how))
    assert [piece.count for piece in found] == [100, 200, 400, 800, 1000, 1000, 1000, 500]
    assert [piece.first_record for piece in found] == [1, 101, 301, 701, 1501, 2501, 3501, 4501]
    assert all(piece.stored == data[piece.offset : piece.end] for piece in found)


def test_large_records_come_whole() -> None:
    """Records much larger than a read are given complete, each in a piece of its own when it fills the piece."""
    large = json.dumps({"a": "},{[" * 1_250_000})
    for before, between, after in (("[", ",", "]"), ("", "\n", "\n")):
        document = _built([before, (large,), between, ("{}",), between, (large,), after])
        with patch.object(piece_builder, "PIECE_BYTES", 1 << 20):
            found = document.cut(100)
        assert _places(found) == document.places
        assert [piece.count for piece in found] == [1, 2]


def test_a_record_larger_than_the_limit_ends_the_source() -> None:
    """A record or white space that is larger than the limit is reported with its byte."""
    for data in (b'[{},{"a":"' + b"x" * 5000, b"{}\n" + b"x" * 5000, b"[{}," + b" " * 5000, b'{"a":"' + b"x" * 5000):
        with patch.object(pieces, "Window", lambda stream, _: window.Window(stream, 1000)), _read_in(100):
            found, fault = _until_fault(data, Document(data, []))
        assert "no record ends within 1000 bytes, at record" in fault
        assert _places(found) == ([] if data.startswith(b'{"') else [(data.index(b"{}"), data.index(b"{}") + 2)])


def _scanned(data: bytes, batch_rows: int = 1) -> tuple[int, list[int]]:
    """Cut a source; return the number of characters that were scanned, and the sizes of the reads."""
    total = 0
    scan = boundaries._scan

    def counting(text: str, start: int) -> Any:
        nonlocal total
        try:
            value, end = scan(text, start)
        except json.JSONDecodeError:
            total += len(text) - start
            raise
        total += end - start
        return value, end

    stream = Bytes(data)
    with patch.object(boundaries, "_scan", counting):
        for _ in cut(stream, CutOptions(format="auto", records_path="item", batch_rows=batch_rows)):
            pass
    return total, stream.asked


@pytest.mark.parametrize("shape", ["array", "lines", "values"])
def test_a_large_record_is_scanned_a_few_times_and_not_once_a_read(shape: str) -> None:
    """The work for a record of megabytes, and for the small records after it, grows linearly with the bytes."""
    large, small = json.dumps({"a": "x" * 10_000_000}), '{"a":1}'
    parts = [small, large, *[small] * 20_000]
    text = {"array": f"[{','.join(parts)}]", "lines": "\n".join(parts), "values": " ".join(parts)}[shape]
    scanned, asked = _scanned(text.encode())
    assert scanned < 4 * len(text)
    assert len(asked) < 16


@pytest.mark.slow
def test_small_records_are_scanned_once() -> None:
    """A hundred thousand small records are scanned once, except for those that a read cuts in two."""
    text = "[" + ",".join(['{"a":"b"}'] * 100_000) + "]"
    scanned, asked = _scanned(text.encode())
    assert scanned < 1.01 * len(text)
    assert len(asked) < 2 + len(text) // READ_BYTES + 2


@pytest.mark.parametrize("text", ['{"rows":[{"a":1},{"a":2}', '[{"a":1},{"a":2}', '{"a":1}{"a":2}', '{"a":1}', "{}\n"])
def test_the_records_before_a_fault_of_the_stream_are_given_out(tmp_path: Path, text: str) -> None:
    """When compressed data is cut off right after complete records, these are given, and then the fault."""
    path = tmp_path / "a.json.gz"
    path.write_bytes(gzip.compress(text.encode())[:-8])
    how = CutOptions(format="auto", records_path="rows.item" if "rows" in text else "item", batch_rows=10)
    with opened(Source(name="a", path=str(path))) as stream:
        found = cut(stream, how)
        assert next(found).data.decode() == text.rpartition("[")[2].strip()
        with pytest.raises(SourceError, match="ends too early"):
            next(found)


@pytest.mark.parametrize("tail", [b"x y", b'{"b":', b"12", b'{"b":1} x'])
def test_a_line_that_a_fault_cuts_is_no_record(tmp_path: Path, tail: bytes) -> None:
    """A line whose end was not read is not reported as a bad line."""
    path = tmp_path / "a.ndjson.gz"
    path.write_bytes(gzip.compress(b'{"a":1}\n' + tail)[:-8])
    with opened(Source(name="a", path=str(path))) as stream:
        found = cut(stream, CutOptions(format="auto", records_path="item", batch_rows=10))
        assert next(found).data == (b'{"a":1}\n{"b":1}' if b"}" in tail else b'{"a":1}')
        with pytest.raises(SourceError, match="ends too early"):
            next(found)


def test_a_file_that_grows_while_it_is_cut_is_a_fault(tmp_path: Path) -> None:
    """All records are given, also the added ones; then the change is reported."""
    path = tmp_path / "a.ndjson"
    path.write_bytes(b'{"a":1}\n' * 200_000)
    how = CutOptions(format="auto", records_path="item", batch_rows=100_000)
    found: Iterator[Piece]
    with opened(Source(name="a", path=str(path))) as stream:
        found = cut(stream, how)
        assert next(found).count == 100_000
        with path.open("ab") as file:
            file.write(b'{"a":2}\n')
            os.utime(path, (1, 1))
        assert [piece.count for piece in (next(found), next(found))] == [100_000, 1]
        with pytest.raises(SourceError, match="changed while it was read"):
            next(found)


@pytest.mark.parametrize("tail", ['"', '"abc', "1", "tru", "-", "nul", ",", "]", "{", "//"])
@pytest.mark.parametrize(("head", "records"), [('[{"a":1}]', "item"), ('{"d":[{"a":1}]}', "d.item")])
def test_garbage_after_the_document_is_a_fault(tail: str, head: str, records: str, tmp_path: Path) -> None:
    """Text after the document ends the source, also a token that is cut off; the records are given before."""
    path = tmp_path / "source.json"
    path.write_text(head + tail)
    with opened(Source(name="source", path=str(path))) as stream:
        given = cut(stream, CutOptions(format="auto", records_path=records, batch_rows=5))
        assert next(given).count == 1
        with pytest.raises(SourceError, match="the source is cut off" if tail == "{" else "not JSON around"):
            next(given)


@settings(quick, max_examples=100)
@given(DOCUMENTS, st.sampled_from([3, 20, READ_BYTES]), st.integers(0, 4), st.data())
def test_blocks_give_the_same_as_single_steps(
    document: Document, read_bytes: int, spoiled: int, data: st.DataObject
) -> None:
    """Search by blocks and search record by record give the same records, and the same fault at the same byte."""
    content = bytearray(document.data)
    for _ in range(spoiled):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from(
                [b"", b"}", b"]", b",", b"\n", b'"', b"\\", b"\x00", b"\xff", b"\\ud800", b"{", b"1", b"[" * 201]
            )
        )
    with _read_in(read_bytes):
        found, fault = _until_fault(bytes(content), document)
        with patch.object(needles.Needle, "block", lambda *_, **__: None):
            walked, expected = _until_fault(bytes(content), document)
    assert (_places(found), fault) == (_places(walked), expected)
    assert sum(piece.count for piece in found) == sum(piece.count for piece in walked)


def test_an_export_is_mostly_cut_by_blocks() -> None:
    """Records with the same text between them are mostly cut by blocks, also when it is between child objects."""
    record = json.dumps({"id": 1, "name": "},{", "items": [{"id": 1}, {"id": 2}, {"id": 3}]})
    sources = {
        "array": "[" + ",\n".join([record] * 5000) + "]",
        "lines": "\n".join([record] * 5000),
        "crlf": "\r\n".join([record] * 5000),
        "pretty": json.dumps([json.loads(record)] * 5000, indent=2),
    }
    for name, source in sources.items():
        scanned, _ = _scanned(source.encode(), 10_000)
        assert scanned < 0.2 * len(source), name


@pytest.mark.parametrize(
    ("data", "given", "fault"),
    [
        (b'[{"a": 1}, 1234, {"a": 2}]', [b'{"a": 1}', b"1234", b'{"a": 2}'], ""),
        (b'[{"a": 1}, 1234', [b'{"a": 1}'], "a.json: the source is cut off in this record, at record 2, byte 11"),
        (b'{"a": 1} {"a": 2} 1234', [b'{"a": 1}', b'{"a": 2}', b"1234"], ""),
    ],
)
@pytest.mark.parametrize("read_bytes", [1, 3, READ_BYTES])
def test_a_number_ends_where_its_digits_end(data: bytes, given: list[bytes], fault: str, read_bytes: int) -> None:
    """A number among the records has all its digits, however the source is read; in an array, its end is not theirs."""
    document = Document(data, [])
    with _read_in(read_bytes):
        found, ended = _until_fault(data, document)
    assert [piece.data[span.start : span.end] for piece in found for span in piece_spans(piece)] == given
    assert ended == fault


def test_records_full_of_alike_children_are_separated() -> None:
    """Children that begin as the records do, more of them than are tried in one search, separate no records."""
    children = ",".join(f'{{"id":{number}}}' for number in range(200))
    parts: list[str | tuple[str]] = ["["]
    for number in range(40):
        parts += ["," if number else "", (f'{{"id":{number},"children":[{children}]}}',)]
    document = _built([*parts, "]"])
    assert _places(document.cut(1000)) == document.places


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ("12e", "the source is cut off in this record, at record 3, byte 18"),
        ("12.", "the source is cut off in this record, at record 3, byte 18"),
        ("-12E+", "the source is cut off in this record, at record 3, byte 18"),
        ("-", "the source is cut off in this record, at record 3, byte 18"),
        ("tru", "the source is cut off in this record, at record 3, byte 18"),
        ('"abc', "the source is cut off in this record, at record 3, byte 18"),
        ('"abc\\', "the source is cut off in this record, at record 3, byte 18"),
        ("[1, 2e", "the source is cut off in this record, at record 3, byte 18"),
        ("12e ", "not JSON: a number or a word does not end here, at record 3, byte 20"),
        ("12. ", "not JSON: a number or a word does not end here, at record 3, byte 20"),
        ("012", "not JSON: a number or a word does not end here, at record 3, byte 19"),
        ("nulls", "not JSON: a number or a word does not end here, at record 3, byte 22"),
        ("tru ", "not JSON: expecting value, at record 3, byte 18"),
    ],
)
def test_a_cut_value_after_others_has_its_own_place(last: str, reason: str) -> None:
    """The last of values that follow one another is reported at its own number and byte when it is cut off or wrong."""
    text = f'{{"a": 1}} {{"a": 2}} {last}'
    with pytest.raises(SourceError, match=re.escape(reason)):
        list(cut(Bytes(text.encode()), CutOptions(format="auto", records_path="item", batch_rows=9)))


@pytest.mark.parametrize("last", ["12", "12 ", "-0.5e3", "true", "null ", '"a"', "[]"])
def test_a_whole_value_at_the_end_is_a_record(last: str) -> None:
    """A value that ends with the source is whole, also a number, which more digits could make longer."""
    text = f'{{"a": 1}} {{"a": 2}} {last}'
    options = CutOptions(format="auto", records_path="item", batch_rows=9)
    assert sum(piece.count for piece in cut(Bytes(text.encode()), options)) == 3
