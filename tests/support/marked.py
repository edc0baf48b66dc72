"""Sources in memory: their marks, and what a recognition decides of them."""

from etl.ingestion.fingerprints import Mark
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.ledger.marks import Reader
from etl.ingestion.recognition.comparison import Recognised, Recognition
from etl.ingestion.values import Piece
from tests.support.faults import Connection
from tests.support.streams import Bytes


def pieces_of(data: bytes) -> list[Piece]:
    """Return the pieces of a source."""
    return list(cut(Bytes(data), CutOptions(format="auto", records_path="item", batch_rows=1000)))


def marks_of(data: bytes) -> list[Mark]:
    """Return the marks that every reader of a source makes, and that of its end."""
    pieces = pieces_of(data)
    ends = [piece.end_mark for piece in pieces[-1:] if piece.end_mark]
    return sorted({*(mark for piece in pieces for mark in piece.marks), *ends})


def compared(connection: Connection, dataset: str, data: bytes) -> Recognition:
    """Compare a source with the known runs of a dataset, to its end."""
    recognition = Recognition(Reader(connect=lambda: connection), dataset)
    for piece in pieces_of(data):
        recognition.note(piece)
    return recognition


def recognised(connection: Connection, dataset: str, data: bytes) -> Recognised:
    """Return to which run a source belongs."""
    return compared(connection, dataset, data).decide()
