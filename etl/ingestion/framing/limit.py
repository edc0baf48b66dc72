"""The first records of each path of a source, up to a limit. Knows pieces, and not how they are loaded."""

from collections.abc import Container, Iterator, Sequence
from dataclasses import replace

from etl.ingestion.framing.spans import spans
from etl.ingestion.values import Piece


class RecordLimit:
    """Lets the pieces of a source pass up to `limit` records of each path.

    `cut` are the places of the paths that may have more records. A loaded piece, known by its offset for each path, is
    never divided.
    """

    def __init__(self, limit: int, known: Sequence[Container[int]]) -> None:
        self.cut: set[int] = set()
        self._limit = limit
        self._known = known

    def of(self, pieces: Iterator[Piece | None]) -> Iterator[Piece | None]:
        """Yield the pieces within the limit."""
        remaining = [self._limit for _ in self._known]
        for piece in pieces:
            if piece is None or piece.which in self.cut:
                yield None
                continue
            which = piece.which
            if piece.count > remaining[which] and piece.offset not in self._known[which]:
                piece = _first(piece, remaining[which])  # noqa: PLW2901 - the rest is not loaded
            remaining[which] -= piece.count
            yield piece
            if remaining[which] <= 0:
                self.cut.add(which)
                if len(self.cut) == len(self._known):
                    return


def _first(piece: Piece, count: int) -> Piece:
    """Return the first records of a piece as a piece."""
    [(_, last)] = spans(piece, [count])
    end = last.end
    blocks = tuple((begin, min(stop, end)) for begin, stop in piece.blocks if begin < end)
    return replace(piece, count=count, parts=(piece.data[:end],), blocks=blocks, block_rows=())
