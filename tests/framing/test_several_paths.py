"""A document is cut for the records of several paths in one pass."""

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from etl.errors import SourceError
from etl.ingestion.framing.pieces import CutOptions, NoRecordsError, cut
from etl.ingestion.values import Piece
from tests.support.streams import Bytes

RECORD = st.dictionaries(st.sampled_from("abc"), st.none() | st.integers() | st.text(max_size=3), max_size=2)


ARRAYS = st.lists(RECORD, max_size=6)


DOCUMENTS = st.lists(
    st.tuples(st.sampled_from("abc"), ARRAYS)
    | st.tuples(st.sampled_from("dk"), st.dictionaries(st.text(max_size=2), RECORD, max_size=3)),
    max_size=6,
    unique_by=lambda member: member[0],
)


PATHS = ["a.item", "b.item", "c.item", "d.*", "k"]


def _cut(data: bytes, *hows: CutOptions) -> tuple[list[Piece], SourceError | None]:
    found: list[Piece] = []
    try:
        for piece in cut(Bytes(data), *hows):
            found.append(piece)  # noqa: PERF402 - the pieces before the fault are returned, too
    except SourceError as error:
        return found, error
    return found, None


def _values(piece: Piece) -> tuple[Any, ...]:
    return piece.offset, piece.count, piece.first_record, piece.data, piece.shape, piece.marks, piece.end_mark


@settings(deadline=None, derandomize=True, max_examples=80)
@given(
    members=DOCUMENTS,
    paths=st.lists(st.sampled_from(PATHS), min_size=1, max_size=4, unique=True),
    batch_rows=st.integers(1, 3),
    cut_off=st.none() | st.integers(1, 200),
)
def test_several_paths_give_the_same_pieces_as_each_alone(
    members: list[tuple[str, Any]], paths: list[str], batch_rows: int, cut_off: int | None
) -> None:
    """Several paths give the same pieces as each path alone, also of a source that is cut off."""
    data = json.dumps(dict(members)).encode()
    data = data if cut_off is None else data[:-cut_off]
    alone = [_cut(data, CutOptions(format="document", records_path=path, batch_rows=batch_rows)) for path in paths]
    found, fault = _cut(
        data,
        *(CutOptions(format="document", records_path=path, batch_rows=batch_rows) for path in paths),
    )
    assert [each.offset for each in found] == sorted(each.offset for each in found)
    if isinstance(fault, NoRecordsError):
        assert {which: str(each) for which, each in fault.faults.items()} == {
            which: str(each) for which, (_, each) in enumerate(alone) if each is not None
        }
    else:
        assert (fault is None) == all(error is None for _, error in alone)
    for which, (pieces, error) in enumerate(alone):
        shared = [each for each in found if each.which == which]
        joint = [_values(each) for each in shared]
        expected = [_values(each) for each in pieces]
        if fault is None or isinstance(fault, NoRecordsError) or error is None:
            assert joint == expected
        else:  # A record of another path may be cut off, and the pieces after it are not read then.
            assert joint == expected[: len(joint)]
