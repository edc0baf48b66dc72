"""A piece -> its batch, by one of two lanes that give the same rows.

The fast lane sends the tokens that it can vouch for; every other record goes through the careful lane, value by value,
as do all of a batch that the server refuses. The careful lane alone: `--decoder ijson`.
"""

from collections.abc import Iterator
from itertools import islice

from etl.datasets import Dataset
from etl.ingestion.framing import decoding as records
from etl.ingestion.transform.fastpath import FastLane
from etl.ingestion.transform.projection import Projection
from etl.ingestion.transform.shapes import NoShape, Shape, shape
from etl.ingestion.values import Batch, Block, Piece, Proof

_AT_ONCE = 64
"""Records that the careful lane takes at a time: of so few, mostly none is odd, which would make it look at each."""

_FOR_A_WHILE = 64
_FOR_A_LITTLE = 8
"""Batches for which a closer look is taken at once after the server refused one: what is refused rarely comes alone."""


class CarefulLane:
    """Decodes with ijson and converts value by value."""

    def __init__(self, projection: Projection, run_number: int) -> None:
        self._projection = projection
        self._run_number = run_number

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each part of the work, and the batch at its end."""
        places = range(1, piece.count + 1)
        gathered = self._projection.gather(piece, self._run_number)
        gathered.look_at(records.first(piece))
        found = zip(places, records.decode(piece), strict=True)
        while taken := list(islice(found, _AT_ONCE)):
            gathered.add_all(taken)
            yield None
        yield gathered.batch(piece, places)


class Lanes:
    """Which lane a piece takes: the fast one, and for a while another where the server refused batches of it."""

    def __init__(self, fast: FastLane | None, strict: FastLane | None, careful: CarefulLane) -> None:
        self._fast = fast
        self._strict = strict
        self._careful = careful
        self._strict_for = 0
        self._careful_for = 0

    def prove(self, block: Block) -> Proof | None:
        """Return how many records a block holds, with the rows of the lane that it takes, or None."""
        lane = self._strict if self._strict_for else self._fast
        return None if lane is None or self._careful_for else lane.prove(block)

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each part of the work, and the batch at its end."""
        lane: FastLane | CarefulLane = self._fast or self._careful
        if self._strict_for and self._strict:
            self._strict_for -= 1
            lane = self._strict
        if self._careful_for:
            self._careful_for -= 1
            lane = self._careful
        if piece.is_keyed:
            lane = self._careful
        return lane.batching(piece)

    def again(self, refused: Batch) -> Iterator[Batch]:
        """Yield a batch that the server refused as the lanes make it that look closer."""
        told = self._fast
        # Made ahead, before the fast lane was told to look closer: that it is refused says nothing new.
        is_late = refused.lane == "fast" and refused.maker is not self._fast
        if refused.lane == "fast" and self._strict:
            for batch in self._closer(self._strict, refused):
                self._strict_for = 0 if is_late or self._fast is not told else _FOR_A_WHILE
                yield batch
        if refused.lane != "careful":
            for batch in self._closer(self._careful, refused):
                self._careful_for = 0 if is_late or self._fast is not told else _FOR_A_LITTLE
                self._strict_for = 0 if self._fast is not told else self._strict_for
                yield batch

    def _closer(self, lane: FastLane | CarefulLane, refused: Batch) -> Iterator[Batch]:
        """Yield the batch of a lane; where it finds why, the fast one looks at these columns by itself from now on."""
        for batch in lane.batching(refused.piece):
            if batch is not None:
                found = {(each.fault.table, each.fault.column) for each in batch.rejected}
                found -= {(each.fault.table, each.fault.column) for each in refused.rejected}
                if self._fast and (closer := self._fast.looking_at(found)):
                    self._fast = closer
                yield batch


def fast(dataset: Dataset) -> Shape | str:
    """Return the dataset as the fast lane sees it, or why it cannot."""
    try:
        return shape(dataset)
    except NoShape as reason:
        return str(reason)
