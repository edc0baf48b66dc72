"""Where the records of the failed store are in their sources, and their text there."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

from etl.ingestion.constants import READ_BYTES
from etl.ingestion.framing.boundaries import NotJSON, member_value, value_end
from etl.ingestion.framing.spans import spans
from etl.ingestion.sources.recognition import compression_of, encoding_of
from etl.ingestion.values import LINE_ENDS, Piece, Span


class RecordLocation(NamedTuple):
    """Where a record stands in its source (its number from 1, its byte from 0), and its text as it was.

    Keyed, the text is an object whose only member is the record with its key.
    """

    record: int
    offset: int
    text: bytes
    is_keyed: bool = False


def locate(piece: Piece, places: Collection[int], known: Mapping[int, Span] = {}) -> dict[int, RecordLocation]:
    """Return where records of a piece stand in the source, by their places in the piece from 1.

    `known` tells where some of them stand in the piece; where it tells it of all, the others are not looked at.
    """
    found = known.items() if all(place in known for place in places) else spans(piece, places)
    return {
        place: RecordLocation(
            piece.first_record + place - 1, piece.offset + span.start, piece.text(span), piece.is_keyed
        )
        for place, span in found
    }


def is_plain(source: str) -> bool:
    """Tell whether a source is a file whose bytes can be looked at by their offset: there, as it is, and in UTF-8."""
    try:
        if not Path(source).is_file():  # To open a pipe would wait for its writer.
            return False
        with Path(source).open("rb") as file:
            beginning = file.read(6)
        return not compression_of(beginning) and not encoding_of(beginning)
    except OSError:
        return False


def length_in(source: str, offset: int, line: bytes, *, is_keyed: bool = False) -> int:
    """Return how many bytes a record has in a plain source, whatever became of its line in the store since."""
    line = line[1:-1] if is_keyed else line
    size = max(READ_BYTES, len(line))
    with Path(source).open("rb") as file:
        file.seek(offset)
        data = file.read(size)
        if data[: len(line)].translate(LINE_ENDS) == line:
            return len(line)
        while True:
            try:
                text = data.decode("latin-1")
                return value_end(text, member_value(text, 0) if is_keyed else 0)
            except NotJSON as error:
                more = file.read(len(data)) if error.cut_off else b""
            if not more:
                return len(data.partition(b"\n")[0].rstrip(b" \t\r"))
            data += more
