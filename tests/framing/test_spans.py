"""The spans of single records of a block, found around a value."""

import json
from collections.abc import Sequence
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.ingestion.framing.addresses import Text
from etl.ingestion.framing.blocks import Decoders, RecordBlock
from etl.ingestion.framing.boundaries import piece_spans
from etl.ingestion.framing.spans import span_around
from etl.ingestion.values import Piece, PieceShape, Span

_NAMES = ["id", "a.b", "x}", "{", "", "é", " id", ",", "},{"]
_TEXTS = st.lists(st.sampled_from(['},{"id":', "}", "{", "[", "]", ",", ":", '"id":', "\n", "\\", "é"]), max_size=4)
_SCALARS = st.none() | st.integers() | _TEXTS.map("".join)


def _objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.dictionaries(st.sampled_from(_NAMES), values, max_size=3)


_VALUES = st.recursive(_SCALARS, lambda inner: _objects(inner) | st.lists(inner, max_size=2), max_leaves=4)
_RECORDS = st.lists(
    _objects(_VALUES)
    | st.integers().map(lambda number: {"id": number})
    | st.integers().map(lambda number: {"id": number, "to": {"id": {"id": 1}}})
    | st.integers().map(lambda number: {"id": number, "note": "[A-1] },{"})
    | st.integers().map(lambda number: {"no": number, "legs": [{"id": number}, {"id": 2}]})
    | st.integers().map(lambda number: {"legs": [{"id": number}, {"id": 2}], "id": number})
    | st.integers().map(lambda number: {"id": number, "tags": ["id", 1]}),
    min_size=1,
    max_size=12,
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(_RECORDS, st.booleans(), st.sampled_from([",", ", ", ",\n  ", "\n", "\r\n"]), st.data())
def test_the_record_around_a_value_is_found_or_nothing(
    records: list[dict[str, Any]], is_compact: bool, between: str, data: st.DataObject
) -> None:
    """Where the record around a value of its own is certain, it is the one that a scan of the whole block finds."""
    shape: PieceShape = "lines" if between.endswith("\n") and "," not in between else "array"
    separators = (",", ":") if is_compact else (", ", ": ")
    block = between.join(json.dumps(each, separators=separators, ensure_ascii=False) for each in records).encode()
    place = data.draw(st.integers(0, len(records) - 1))
    [scanned] = _scanned(block, shape, [place])
    for name in records[place]:
        at = _own_value(block, scanned, records[place], name, separators)
        assert span_around(block, shape, at) in (None, scanned)


@pytest.mark.parametrize(
    ("shape", "record", "between"),
    [
        ("array", '{"id":%d}', ",\n"),
        ("array", '{"id" : %d, "to": {"id": 7}, "note": "},{"}', ", "),
        ("array", '{"id":%d,"note":"see [A-1], {B}","tags":[1,[2]]}', ",\n"),
        ("array", '{"id":%d,"legs":[{"no":1},{"no":2}]}', ","),
        ("array", '{"other":{"x":[1]},"id":%d}', ","),
        ("lines", '{"id":%d,"tags":[{"id":1},{"id":2}]}', "\n"),
        ("lines", '{"id":%d,"to":{}}', "\r\n"),
    ],
)
def test_the_record_around_a_token_is_found(shape: PieceShape, record: str, between: str) -> None:
    """The records of one form are found by their tokens, whatever their lengths are; no other record is looked at."""
    block = between.join(record % (10 ** (number % 40)) for number in range(200)).encode()
    decoders = Decoders(msgspec.defstruct("Record", [("id", msgspec.Raw)]))
    decoded = RecordBlock(block, shape)
    records = decoded.decoded(decoders)
    places = [0, 1, 57, 58, 150, 199]
    with mock.patch("etl.ingestion.framing.blocks.Spans", side_effect=AssertionError("all spans were asked for")):
        spans = [decoded.span_of(place, records[place].id) for place in places]
    assert spans == _scanned(block, shape, places)


@pytest.mark.parametrize(
    ("records", "is_certain"),
    [
        (['{"id":1,"x":"[A-1]"}', '{"id":2,"x":1}', '{"id":3}'], True),
        (['{"id":1}', '{"id":2,"legs":[{"id":1},{"id":2}],"x":2}', '{"id":3}'], False),
        (['{"id":1}', '{"id":2,"x":2,"legs":[{"id":1},{"id":2}]}', '{"id":3}'], False),
        (['{"id":1}', '{"no":2,"x":2,"legs":[{"id":1},{"id":2}]}', '{"id":3}'], False),
        (['{"id":1}', '{"no":2,"legs":[{"id":1}],"x":2}', '{"id":3}'], False),
        (['{"id":1}', '{"no":2,"x":2}', '{"id":3}'], False),
        (['{"id":1}', '{"to":{"id":1},"x":2}', '{"id":3}'], False),
        (['{"id":1}', '{"id":2,"to":{"id":1},"x":2,"by":{"id":1}}', '{"id":3}'], False),
    ],
)
def test_the_record_around_a_value_is_certain_or_all_are_scanned(records: list[str], is_certain: bool) -> None:
    """Objects in a record may begin as the records do; then the span that decodes is another one, or none."""
    block = ",".join(records).encode()
    decoders = Decoders(msgspec.defstruct("Record", [("x", msgspec.Raw, msgspec.Raw(b"null"))]))
    decoded = RecordBlock(block, "array")
    token = decoded.decoded(decoders)[1].x
    [scanned] = _scanned(block, "array", [1])
    assert Text(b"[%b]" % block).offset_of(token) is None  # It is a view of another copy.
    found = span_around(block, "array", block.index(b'"x":', scanned.start) + len('"x":'))
    assert (found == scanned) is is_certain
    assert found in (None, scanned)
    assert decoded.span_of(1, token) == scanned
    assert decoded.span_of(1, None) == scanned


def _own_value(block: bytes, span: Span, record: dict[str, Any], name: str, separators: tuple[str, str]) -> int:
    """Return where the value of a member of the record itself is."""
    before = {each: record[each] for each in list(record)[: list(record).index(name)]}
    text = json.dumps(before, separators=separators, ensure_ascii=False)[:-1] + (separators[0] if before else "")
    text += json.dumps(name, ensure_ascii=False) + separators[1]
    assert block[span.start : span.end].startswith(text.encode())
    return span.start + len(text.encode())


def _scanned(block: bytes, shape: PieceShape, places: Sequence[int]) -> list[Span]:
    spans = list(piece_spans(Piece(offset=0, count=0, first_record=1, parts=(block,), shape=shape)))
    return [spans[place] for place in places]
