"""The first records of each path of a source, cut off from the rest. Knows pieces, and not what becomes of them."""

import sys
from collections.abc import Container, Iterator, Sequence
from dataclasses import replace

from etl.ingestion.framing.spans import spans
from etl.ingestion.values import Piece


class Limited:
    """The pieces of a source up to `limit` records of each path, or all of them; `cut` are those that may have more.

    A piece that is in already, known by its offset for each path, is never divided.
    """

    def __init__(self, limit: int | None, known: Sequence[Container[int]]) -> None:
        self.cut: set[int] = set()
        self._limit = limit
        self._known = known

    def of(self, pieces: Iterator[Piece | None]) -> Iterator[Piece | None]:
        """Yield the pieces that are within the limit, up to the last one of them."""
        left = [sys.maxsize if self._limit is None else self._limit for _ in self._known]
        for piece in pieces:
            if piece is None or piece.which in self.cut:
                yield None
                continue
            which = piece.which
            if piece.count > left[which] and piece.offset not in self._known[which]:
                piece = _first(piece, left[which])  # noqa: PLW2901 - the rest of it is nobody's
            left[which] -= piece.count
            yield piece
            if left[which] <= 0:
                self.cut.add(which)
                if len(self.cut) == len(self._known):
                    return


def _first(piece: Piece, count: int) -> Piece:
    """Return the first records of a piece as a piece."""
    [(_, last)] = spans(piece, [count])
    end = last.end
    blocks = tuple((begin, min(stop, end)) for begin, stop in piece.blocks if begin < end)
    return replace(piece, count=count, parts=(piece.data[:end],), blocks=blocks, block_rows=())
