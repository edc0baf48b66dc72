"""The spans of single records of a block, found by searching."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.ingestion.framing.boundaries import piece_spans
from etl.ingestion.framing.spans import searched
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


@settings(max_examples=200, deadline=None, derandomize=True)
@given(_RECORDS, st.booleans(), st.sampled_from([",", ", ", ",\n  ", "\n", "\r\n"]), st.data())
def test_a_search_finds_the_spans_of_records_or_nothing(
    records: list[dict[str, Any]], is_compact: bool, between: str, data: st.DataObject
) -> None:
    """Where a search is certain of the places of records, they are those that a scan of the whole block finds."""
    shape: PieceShape = "lines" if between.endswith("\n") and "," not in between else "array"
    separators = (",", ":") if is_compact else (", ", ": ")
    block = between.join(json.dumps(each, separators=separators, ensure_ascii=False) for each in records).encode()
    places = sorted(data.draw(st.sets(st.integers(0, len(records) - 1))))
    found = searched(block, shape, len(records), places, lambda name: all(name.decode() in each for each in records))
    if found is not None:
        assert found == _scanned(block, shape, places)


@pytest.mark.parametrize(
    ("shape", "record", "between"),
    [
        ("array", '{"id":%d}', ",\n"),
        ("array", '{"id" : %d, "to": {"id": 7}, "note": "},{"}', ", "),
        ("lines", '{"id":%d,"tags":[{"id":1},{"id":2}]}', "\n"),
        ("lines", '{"id":%d,"to":{}}', "\r\n"),
        ("array", '{"id":%d,"note":"see [A-1], {B}","tags":[1,[2]]}', ",\n"),
        ("array", '{"id":%d,"legs":[{"no":1},{"no":2}]}', ","),
    ],
)
def test_the_places_of_records_of_one_form_are_found_by_a_search(shape: PieceShape, record: str, between: str) -> None:
    """A search is certain of records of one form, whatever their lengths are."""
    block = between.join(record % (10 ** (number % 40)) for number in range(200)).encode()
    places = [0, 1, 57, 58, 150, 199]
    assert searched(block, shape, 200, places, lambda _: True) == _scanned(block, shape, places)
    assert searched(block, shape, 199, places[:2], lambda _: True) is None


@pytest.mark.parametrize(
    ("records", "is_certain"),
    [
        (['{"id":1,"note":"[A-1]"}', '{"id":2}'], True),
        (['{"id":1,"legs":[{"id":1},{"id":2}]}', '{"id":2}'], False),
        (['{"id":1,"legs":[{"no":1},{"id":2}]}', '{"no":2}', '{"id":1}'], False),
        (['{"id":1,"note":"[]"}', '{"no":2,"id":3}'], False),
        (['{"id":1,"note":"[\\"id\\"]"}', '{"id":3}'], True),
        (['{"id":1,"tags":["id"]}', '{"id":3}'], False),
        (['{"id":1,"id":2,"tags":[]}', '{"no":3}'], False),
    ],
)
def test_a_search_beside_arrays_is_certain_where_each_record_has_its_name_once(
    records: list[str], is_certain: bool
) -> None:
    """An array may hold objects that begin as the records do: then there is one name more than records."""
    block = ",".join(records).encode()
    held = [json.loads(record) for record in records]
    found = searched(block, "array", len(records), [1], lambda name: all(name.decode() in each for each in held))
    assert (found is not None) is is_certain
    assert found is None or found == _scanned(block, "array", [1])


def _scanned(block: bytes, shape: PieceShape, places: Sequence[int]) -> list[Span]:
    spans = list(piece_spans(Piece(offset=0, count=0, first_record=1, parts=(block,), shape=shape)))
    return [spans[place] for place in places]
