"""The marks of a source: each reader makes the same ones, and they are those of the bytes."""

import json
import random
from collections.abc import Sequence
from unittest.mock import patch

import pytest
import xxhash
from hypothesis import given, settings
from hypothesis import strategies as st

from etl.ingestion import fingerprints
from etl.ingestion.constants import CELL_BYTES
from etl.ingestion.fingerprints import Mark
from etl.ingestion.framing import piece_builder, window
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.values import Piece
from tests.support.streams import Bytes

FRAMES = {
    "lines": ("", "\n", "\n"),
    "lines without an end": ("", "\n", ""),
    "CR LF": ("", "\r\n", "\r\n"),
    "array": ("[", ",", "]"),
    "array of lines": ("[\n", " ,\n ", "\n]\n"),
    "values": ("", " ", ""),
}


def _marks(texts: Sequence[str], separator: str, cell: int) -> list[Mark]:
    """Compute the marks of a source one record after the other, as they are defined."""
    found, data, before = [], b"", 0
    for number, text in enumerate(texts, 1):
        data += (separator.replace("\r\n", "\n").encode() if number > 1 else b"") + text.encode()
        is_mark = number & (number - 1) == 0 if len(data) < cell else len(data) // cell > before // cell
        if is_mark:
            unsigned = xxhash.xxh3_64_intdigest(data)
            found.append(Mark(number, len(data), unsigned - (1 << 64) if unsigned >> 63 else unsigned))
        before = len(data)
    return found


def _cut(data: str, rows: int) -> list[Piece]:
    return list(cut(Bytes(data.encode()), CutOptions(format="auto", records_path="item", batch_rows=rows)))


def _source(texts: Sequence[str], frame: str) -> str:
    start, separator, end = FRAMES[frame]
    return start + separator.join(texts) + end


RECORD = st.dictionaries(
    st.sampled_from(["a", "b", "},{"]), st.integers() | st.text(max_size=40) | st.lists(st.just({"a": 1}), max_size=3)
)


@settings(deadline=None, derandomize=True, max_examples=150)
@given(
    records=st.lists(RECORD, min_size=1, max_size=60),
    frame=st.sampled_from(sorted(FRAMES)),
    rows=st.sampled_from([1, 2, 7, 1000]),
    read_bytes=st.sampled_from([5, 200, 1 << 18]),
    cell=st.sampled_from([40, 200, 1000]),
)
def test_every_reader_makes_the_marks_of_the_bytes(
    records: list[dict[str, object]], frame: str, rows: int, read_bytes: int, cell: int
) -> None:
    """The marks depend on the bytes of the records alone: not on batches, on reads, on blocks or on what is around."""
    texts = [json.dumps(record, ensure_ascii=False) for record in records]
    with (
        patch.object(fingerprints, "CELL_BYTES", cell),
        patch.object(piece_builder, "CELL_BYTES", cell),
        patch.object(piece_builder, "BLOCK_BYTES", cell // 2),
        patch.object(window, "BLOCK_BYTES", cell // 2),
        patch.object(window, "_LAST_OF_CELL_BYTES", cell * 3 // 4),
        patch.object(window, "READ_BYTES", read_bytes),
    ):
        found = _cut(_source(texts, frame), rows)
        assert [mark for piece in found for mark in piece.marks] == _marks(texts, FRAMES[frame][1], cell)


@pytest.mark.parametrize("frame", sorted(FRAMES))
def test_a_large_source_has_a_mark_for_each_cell(frame: str) -> None:
    """Blocks of many records end where a mark is due: none is missed, and none is moved."""
    random_ = random.Random(frame)
    texts = [
        json.dumps({"id": number, "text": "x" * random_.choice([3, 30, 300]), "items": [{"id": 1}] * (number % 3)})
        for number in range(9_000)
    ]
    found = [mark for piece in _cut(_source(texts, frame), 5_000) for mark in piece.marks]
    expected = _marks(texts, FRAMES[frame][1], CELL_BYTES)
    assert found == expected
    assert len(expected) > 15
