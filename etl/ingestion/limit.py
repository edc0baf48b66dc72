"""The first records of a source, cut off from the rest of it. Knows pieces, and not what becomes of them."""

import sys
from collections.abc import Container, Iterator
from dataclasses import replace

from etl.ingestion.needles import spans
from etl.ingestion.values import Piece


class Limited:
    """The pieces of a source up to `limit` records, or all of them; `is_cut` tells whether the source may have more.

    A piece that is in already, known by its offset, is never divided.
    """

    def __init__(self, limit: int | None, known: Container[int]) -> None:
        self.is_cut = False
        self._limit = limit
        self._known = known

    def of(self, pieces: Iterator[Piece | None]) -> Iterator[Piece | None]:
        """Yield the pieces that are within the limit."""
        left = sys.maxsize if self._limit is None else self._limit
        for piece in pieces:
            if piece is None:
                yield None
                continue
            if piece.count > left and piece.offset not in self._known:
                piece = _first(piece, left)  # noqa: PLW2901 - the rest of it is nobody's
            left -= piece.count
            yield piece
            if left <= 0:
                self.is_cut = True
                return


def _first(piece: Piece, count: int) -> Piece:
    """Return the first records of a piece as a piece."""
    end = next(span.end for place, span in enumerate(spans(piece), 1) if place == count)
    blocks = tuple((begin, min(stop, end)) for begin, stop in piece.blocks if begin < end)
    return replace(piece, count=count, data=piece.data[:end], blocks=blocks, made=())
