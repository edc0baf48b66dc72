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
    """A record in its source: its number (from 1), its byte (from 0), and its original text.

    The text of a keyed record is an object with one member: its key and the record.
    """

    record: int
    offset: int
    text: bytes
    is_keyed: bool = False


def locate(piece: Piece, places: Collection[int], known: Mapping[int, Span] = {}) -> dict[int, RecordLocation]:
    """Return the locations of records of a piece, by their places in the piece (from 1).

    `known` holds the spans of some records. Where it holds all, the piece is not searched.
    """
    located = known.items() if all(place in known for place in places) else spans(piece, places)
    return {
        place: RecordLocation(
            record=piece.first_record + place - 1,
            offset=piece.offset + span.start,
            text=piece.text(span),
            is_keyed=piece.is_keyed,
        )
        for place, span in located
    }


def is_plain(source: str) -> bool:
    """Return whether a source is a file here whose stored bytes are the decompressed ones, in UTF-8."""
    try:
        if not Path(source).is_file():  # Opening a pipe would wait for its writer.
            return False
        with Path(source).open("rb") as file:
            beginning = file.read(6)
        return not compression_of(beginning) and not encoding_of(beginning)
    except OSError:
        return False


def length_in(source: str, offset: int, line: bytes, *, is_keyed: bool = False) -> int:
    """Return the length in bytes of the record at `offset` of a plain source.

    `line` is its line in the failed store, which may have been edited since.
    """
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
