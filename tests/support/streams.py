"""Sources in memory and in files, read to their ends."""

from dataclasses import dataclass, field
from pathlib import Path

from etl.errors import SourceError
from etl.ingestion.constants import READ_BYTES
from etl.ingestion.sources.stream import Stream
from etl.ingestion.values import Source


@dataclass
class Bytes:
    """A stream of bytes in memory; `asked` gathers how much was asked for."""

    data: bytes
    source: Source = field(default=Source(name="a.json", path=None))
    asked: list[int] = field(default_factory=list)
    is_idle: bool = False

    def read(self, size: int) -> bytes:
        """Return the next bytes."""
        self.asked.append(size)
        given, self.data = self.data[:size], self.data[size:]
        return given


def source_of(path: Path) -> Source:
    """Return a file as a source."""
    return Source(name=path.name, path=str(path))


def read_all(stream: Stream, size: int = READ_BYTES) -> tuple[bytes, str]:
    """Return all that a stream gives, and the message of the fault that ended it, if one did."""
    parts = []
    before = stream.position
    try:
        while data := stream.read(size):
            assert len(data) <= size
            parts.append(data)
            assert stream.position == before + sum(map(len, parts))
    except SourceError as error:
        return b"".join(parts), str(error)
    return b"".join(parts), ""
