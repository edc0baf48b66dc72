"""Groups of events -> a stretch: consecutive events of a stream, as many as one batch takes. Pure."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from etl.ingestion.constants import BLOCK_BYTES
from etl.ingestion.values import Piece


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Consecutive events of a stream, one per line, and the byte at which they begin."""

    offset: int
    lines: bytes = field(repr=False)

    @property
    def end(self) -> int:
        """The byte after the last line feed."""
        return self.offset + len(self.lines)

    def piece(self, first_record: int) -> Piece:
        """Return the events as a piece; the first one is this record of its stream."""
        blocks = tuple(self._blocks())
        return Piece(
            offset=self.offset,
            count=self.lines.count(b"\n"),
            first_record=first_record,
            parts=(self.lines,),
            shape="lines",
            blocks=blocks,
            block_rows=tuple(None for _ in blocks),
        )

    def _blocks(self) -> Iterator[tuple[int, int]]:
        begin = 0
        while begin < len(self.lines):
            end = self.lines.rfind(b"\n", begin, begin + BLOCK_BYTES) + 1
            end = end or self.lines.index(b"\n", begin) + 1
            yield begin, end
            begin = end


def stretch_of(groups: Iterable[tuple[bytes, int]], position: int, most_events: int, most_bytes: int) -> Stretch | None:
    """Return the first events of groups, which come with their offsets, as far as they are consecutive."""
    begin = end = position
    parts: list[bytes] = []
    events = size = 0
    for lines, offset in groups:
        if offset != end:
            if parts:
                break
            begin = offset
        parts.append(lines)
        end = offset + len(lines)
        events += lines.count(b"\n")
        size += len(lines)
        if events >= most_events or size >= most_bytes:
            break
    whole = b"".join(parts)
    return Stretch(offset=begin, lines=_first(whole, most_events, most_bytes)) if whole else None


def _first(lines: bytes, most_events: int, most_bytes: int) -> bytes:
    """Return the first whole lines, at least one."""
    if len(lines) > most_bytes:
        lines = lines[: (lines.rfind(b"\n", 0, most_bytes) + 1) or lines.index(b"\n") + 1]
    if lines.count(b"\n") <= most_events:
        return lines
    at = 0
    for _ in range(most_events):
        at = lines.index(b"\n", at) + 1
    return lines[:at]
