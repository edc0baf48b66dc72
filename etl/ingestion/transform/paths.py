"""A piece -> its batch, by one of two paths that give the same rows.

The fast path sends the tokens that it can accept; every other record goes through the checked path, value by value,
as do all of a batch that the server refuses. The checked path alone: `--decoder ijson`.
"""

from collections.abc import Iterator
from itertools import islice

from etl.datasets import Dataset
from etl.ingestion.framing import decoding
from etl.ingestion.transform.fastpath import FastPath
from etl.ingestion.transform.projection import Projection
from etl.ingestion.transform.shapes import NoShape, Shape, shape
from etl.ingestion.values import Batch, Block, Piece, Proof

_AT_ONCE = 64
"""Records that the checked path takes at a time: of so few, mostly none is odd, which would make it look at each."""

_FOR_A_WHILE = 64
_FOR_A_LITTLE = 8
"""Batches for which a closer look is taken at once after the server refused one: what is refused rarely comes alone."""


class CheckedPath:
    """Decodes with ijson and converts value by value."""

    def __init__(self, projection: Projection, run_number: int) -> None:
        self._projection = projection
        self._run_number = run_number

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each part of the work, and the batch at its end."""
        places = range(1, piece.count + 1)
        gathered = self._projection.gather(piece, self._run_number)
        if self._projection.warns_of_unknown:
            gathered.look_at(decoding.first(piece))
        found = zip(places, decoding.decode(piece), strict=True)
        while taken := list(islice(found, _AT_ONCE)):
            gathered.add_all(taken)
            yield None
        yield gathered.batch(piece, places)


class Paths:
    """Which path a piece takes: the fast one, and for a while another where the server refused batches of it."""

    def __init__(self, fast: FastPath | None, strict: FastPath | None, checked: CheckedPath) -> None:
        self._fast = fast
        self._strict = strict
        self._checked = checked
        self._strict_for = 0
        self._checked_for = 0

    def prove(self, block: Block) -> Proof | None:
        """Return how many records a block holds, with the rows of the path that it takes, or None."""
        path = self._strict if self._strict_for else self._fast
        return None if path is None or self._checked_for else path.prove(block)

    def batching(self, piece: Piece) -> Iterator[Batch | None]:
        """Yield None after each part of the work, and the batch at its end."""
        path: FastPath | CheckedPath = self._fast or self._checked
        if self._strict_for and self._strict:
            self._strict_for -= 1
            path = self._strict
        if self._checked_for:
            self._checked_for -= 1
            path = self._checked
        if piece.is_keyed:
            path = self._checked
        return path.batching(piece)

    def again(self, refused: Batch) -> Iterator[Batch]:
        """Yield a batch that the server refused as the paths make it that look closer."""
        told = self._fast
        # Made ahead, before the fast path was told to look closer: that it is refused says nothing new.
        is_late = refused.path == "fast" and refused.maker is not self._fast
        if refused.path == "fast" and self._strict:
            for batch in self._closer(self._strict, refused):
                self._strict_for = 0 if is_late or self._fast is not told else _FOR_A_WHILE
                yield batch
        if refused.path != "checked":
            for batch in self._closer(self._checked, refused):
                self._checked_for = 0 if is_late or self._fast is not told else _FOR_A_LITTLE
                self._strict_for = 0 if self._fast is not told else self._strict_for
                yield batch

    def _closer(self, path: FastPath | CheckedPath, refused: Batch) -> Iterator[Batch]:
        """Yield the batch of a path; where it finds why, the fast one looks at these columns by itself from now on."""
        for batch in path.batching(refused.piece):
            if batch is not None:
                found = {(each.fault.table, each.fault.column) for each in batch.rejected}
                found -= {(each.fault.table, each.fault.column) for each in refused.rejected}
                if self._fast and (closer := self._fast.looking_at(found)):
                    self._fast = closer
                yield batch


def fast(dataset: Dataset) -> Shape | str:
    """Return the dataset as the fast path sees it, or why it cannot."""
    try:
        return shape(dataset)
    except NoShape as reason:
        return str(reason)
