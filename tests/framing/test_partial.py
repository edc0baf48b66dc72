"""Records of which some values stay text: with these decoded, they are what the decoder makes of the whole record."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.ingestion.framing import decoding, partial
from etl.ingestion.framing.partial import Undecoded
from etl.ingestion.values import Fault

quick = settings(deadline=None, derandomize=True, max_examples=150)

TEXT = st.text(st.sampled_from('},{:[]"\\/ \n\u00e9\u20ac\U0001f69aNa0'), max_size=8)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=30,
)


@contextmanager
def _limits(levels: int, size: int) -> Iterator[None]:
    with (
        patch.object(partial, "LAYER_LEVELS", levels),
        patch.object(partial, "VALUE_BYTES", size),
        patch.object(partial, "WHOLE_RECORD_BYTES", size),
    ):
        yield


def _whole(value: Any) -> Any:
    """Return a value with all of its parts decoded."""
    if isinstance(value, Undecoded):
        value = list(value.elements()) if value.is_array else value.decoded()
    if isinstance(value, list):
        return [_whole(element) for element in value]
    return {name: _whole(inner) for name, inner in value.items()} if isinstance(value, dict) else value


@quick
@given(
    st.dictionaries(TEXT, VALUES, max_size=5),
    st.integers(1, 5),
    st.integers(1, 60),
    st.booleans(),
    st.sampled_from([(",", ":"), (" ,\r\n", "\t: ")]),
)
def test_the_parts_of_a_record_are_those_of_the_whole(
    record: dict[str, Any], levels: int, size: int, is_ascii: bool, separators: tuple[str, str]
) -> None:
    """Whatever stays text, and however an array is divided, the values are those of the record."""
    text = json.dumps(record, ensure_ascii=is_ascii, separators=separators).encode()
    with _limits(levels, size):
        found = partial.decode(b" " + text + b"\n", 10_000)
        assert _whole(found) == record
        undecoded = Undecoded(text)
        for name, value in record.items():
            assert _whole(undecoded.at(name)) == value
            if isinstance(value, list):
                array = Undecoded(json.dumps(value, separators=separators).encode())
                assert [_whole(array.at(number)) for number in range(len(value) + 1)] == [*value, None]
        assert undecoded.at("absent") is None


@pytest.mark.parametrize("text", [b'{"a":[1,2}', b'{"a":[[[1]]]} {}', b'{"a":[NaN,[[[1]]]]}', b'{"a":[[[1]]],}'])
def test_text_that_is_not_json_is_a_fault(text: bytes) -> None:
    """A deep or large record that is not JSON is refused as any other."""
    with _limits(2, 1), patch.object(decoding, "WHOLE_RECORD_BYTES", 1):
        found = decoding.decode_one(text)
    assert isinstance(found, Fault)
    assert found.reason == "not JSON"


def test_half_a_surrogate_pair_stays_in_a_large_record() -> None:
    """A large record with a text that only Python's decoder accepts keeps that text."""
    with _limits(2, 1), patch.object(decoding, "WHOLE_RECORD_BYTES", 1):
        found = decoding.decode_one(b'{"a":"\\ud800","b":[[["\\ud800"]]]}')
    assert _whole(found) == {"a": "\ud800", "b": [[["\ud800"]]]}
