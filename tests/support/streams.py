"""A source in memory, for what cuts and decodes without a file."""

from dataclasses import dataclass, field

from etl.ingestion.values import LoadedRange, Piece, Source


@dataclass
class Bytes:
    """A stream of bytes in memory; `asked` gathers how much was asked for."""

    data: bytes
    source: Source = field(default=Source(name="a.json", path=None))
    asked: list[int] = field(default_factory=list)

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        self.asked.append(size)
        given, self.data = self.data[:size], self.data[size:]
        return given


def range_of(piece: Piece) -> LoadedRange:
    """Return what the ledger knows of a piece that is loaded."""
    return LoadedRange(
        offset=piece.offset, length=len(piece.data), count=piece.count, first_record=piece.first_record, hash=b""
    )
