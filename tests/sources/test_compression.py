"""gzip data as the loader reads it: all data before a fault, to the last byte."""

import gzip
import io
import zlib
from io import BufferedReader

import pytest

from etl.ingestion.sources.compression import DAMAGE_ERRORS, decompressed
from etl.ingestion.sources.encodings import Reader

TEXT = b"".join(b'{"id": %d, "name": "N-%d"}\n' % (number, number * number) for number in range(4_000))
FIRST, SECOND = gzip.compress(TEXT), gzip.compress(TEXT[::-1], 1)


def _read(reader: Reader, size: int = 5_000) -> tuple[bytes, type[Exception] | None]:
    """Return the data of a reader, and the error that ended it."""
    given = b""
    try:
        while data := reader.read1(size):
            given += data
    except EOFError:
        return given, EOFError
    except (*DAMAGE_ERRORS, OSError, zlib.error):
        return given, ValueError
    return given, None


def _mine(data: bytes) -> tuple[bytes, type[Exception] | None]:
    return _read(decompressed(BufferedReader(io.BytesIO(data)), "gzip"))


def _theirs(data: bytes) -> tuple[bytes, type[Exception] | None]:
    return _read(gzip.open(io.BytesIO(data)))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(FIRST + SECOND, id="members"),
        pytest.param(FIRST + bytes(700_000) + SECOND + bytes(3), id="zeros behind members"),
        pytest.param(gzip.compress(b"") + FIRST, id="an empty member"),
        pytest.param(gzip.compress(bytes(3_000_000)), id="much from little"),
    ],
)
def test_whole_members_are_read_as_gzip_does(data: bytes) -> None:
    """Members, empty members and zeros after them are read as by the standard library."""
    assert _mine(data) == _theirs(data)
    assert _mine(data)[1] is None


def test_truncated_data_gives_all_bytes_before_its_end() -> None:
    """Truncated data is read to its last byte before EOFError; data that ends between two members is whole."""
    both = FIRST + SECOND
    for end in [*range(2, len(both), 997), len(FIRST) - 1, len(FIRST), len(both) - 8, len(both) - 1]:
        assert _mine(both[:end]) == _theirs(both[:end]), end
    assert _mine(FIRST) == (TEXT, None)
    assert _mine(both[: len(FIRST) + 1]) == (TEXT, EOFError)


def test_damaged_data_gives_the_bytes_before_the_damage() -> None:
    """A wrong byte is noticed as by the standard library, and at most the last byte before it is lost."""
    for place in [*range(12, len(FIRST), 499), len(FIRST) - 8, len(FIRST) - 1]:
        spoiled = FIRST[:place] + bytes([FIRST[place] ^ 4]) + FIRST[place + 1 :] + SECOND
        mine, theirs = _mine(spoiled), _theirs(spoiled)
        assert mine[1] == theirs[1], place
        assert len(mine[0]) >= len(theirs[0]) - 1, place
        assert mine[0].startswith(theirs[0][:-1]), place
    assert _mine(FIRST + b"junk") == (TEXT, ValueError)
