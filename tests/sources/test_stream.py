import bz2
import gzip
import io
import lzma
import os
import random
import sys
import zipfile
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from etl.errors import SourceError
from etl.ingestion.constants import HEAD_BYTES, READ_BYTES
from etl.ingestion.sources.naming import named
from etl.ingestion.sources.stream import opened
from tests.support.streams import read_all, source_of

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


def _zstd(data: bytes) -> bytes:
    """Compress as the command `zstd` does: with a checksum."""
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1})


COMPRESSIONS: dict[str, tuple[Callable[[bytes], bytes], Callable[[], Any]]] = {
    "gz": (gzip.compress, lambda: zlib.decompressobj(zlib.MAX_WBITS | 16)),
    "bz2": (bz2.compress, bz2.BZ2Decompressor),
    "xz": (lzma.compress, lzma.LZMADecompressor),
    "zst": (_zstd, zstd.ZstdDecompressor),
}


NOISE = random.Random(1).randbytes(3 * HEAD_BYTES // 4).hex().encode()


@cache
def _compressed(suffix: str) -> bytes:
    compress, _ = COMPRESSIONS[suffix]
    return compress(NOISE)


@pytest.mark.parametrize("size", [0, 1, 1000, HEAD_BYTES, HEAD_BYTES + 1, HEAD_BYTES + READ_BYTES + 7])
def test_a_file_is_read_as_it_is(tmp_path: Path, size: int) -> None:
    """All bytes are given out in order; the head is what the file begins with, and its size is known."""
    path = tmp_path / "a.json"
    content = random.Random(size).randbytes(size)
    path.write_bytes(content)
    with opened(source_of(path)) as stream:
        assert stream.head == content[:HEAD_BYTES]
        assert (stream.size, stream.position) == (size, 0)
        assert read_all(stream) == (content, "")


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_compression_is_recognised_by_the_first_bytes(tmp_path: Path, suffix: str) -> None:
    """What is compressed is read decompressed, whatever its name; several members are one content."""
    compress, _ = COMPRESSIONS[suffix]
    path = tmp_path / "no-suffix"
    path.write_bytes(compress(b"first") + _compressed(suffix))
    with opened(source_of(path)) as stream:
        assert stream.size == path.stat().st_size
        assert read_all(stream, 99_999) == (b"first" + NOISE, "")


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_a_read_gives_what_is_asked_for(tmp_path: Path, suffix: str) -> None:
    """A read is short at the end only: a reader that doubles what it asks for gets twice as much."""
    path = tmp_path / "a"
    path.write_bytes(_compressed(suffix))
    with opened(source_of(path)) as stream:
        assert len(stream.read(HEAD_BYTES)) == HEAD_BYTES
        assert len(stream.read(READ_BYTES + 5)) == READ_BYTES + 5
        assert len(stream.read(HEAD_BYTES)) == len(NOISE) - HEAD_BYTES - READ_BYTES - 5
        assert stream.read(HEAD_BYTES) == b""


@pytest.mark.parametrize("suffix", COMPRESSIONS)
@pytest.mark.parametrize("share", [0.0001, 0.3, 0.9, 0.9999])
def test_what_is_before_a_cut_is_given_out(tmp_path: Path, suffix: str, share: float) -> None:
    """Compressed data that ends too early is a fault after all decompressed bytes, reported at each read."""
    _, decompressor = COMPRESSIONS[suffix]
    whole = _compressed(suffix)
    cut = whole[: max(8, int(len(whole) * share))]
    path = tmp_path / "a"
    path.write_bytes(cut)
    with opened(source_of(path)) as stream:
        given, fault = read_all(stream)
        assert given == decompressor().decompress(cut)
        assert fault == f"a: the compressed data ends too early, at byte {len(given)} of its content"
        assert read_all(stream) == (b"", fault)


@pytest.mark.parametrize("suffix", COMPRESSIONS)
def test_damaged_compression_is_a_fault(tmp_path: Path, suffix: str) -> None:
    """Compressed data with other bytes in the middle is reported as damaged, and the bytes before it are right."""
    spoiled = bytearray(_compressed(suffix))
    spoiled[len(spoiled) * 3 // 4 : len(spoiled) * 3 // 4 + 64] = bytes(64)
    path = tmp_path / "a"
    path.write_bytes(spoiled)
    with opened(source_of(path)) as stream:
        given, fault = read_all(stream)
    assert fault == f"a: the compressed data is damaged, at byte {len(given)} of its content"
    # gzip detects a wrong byte by the checksum, which is at the end.
    assert given[: HEAD_BYTES // 2] == NOISE[: HEAD_BYTES // 2]


def test_garbage_after_gzip_is_a_fault(tmp_path: Path) -> None:
    """Zeros may pad a gzip file; other bytes after it are damage."""
    path = tmp_path / "a"
    path.write_bytes(gzip.compress(b"[]") + bytes(512))
    with opened(source_of(path)) as stream:
        assert read_all(stream) == (b"[]", "")
    path.write_bytes(gzip.compress(b"[]") + b"garbage")
    with opened(source_of(path)) as stream:
        assert read_all(stream) == (b"[]", "a: the compressed data is damaged, at byte 2 of its content")


@pytest.mark.parametrize("change", ["grow", "shrink", "touch"])
def test_a_file_that_changes_while_it_is_read_is_a_fault(tmp_path: Path, change: str) -> None:
    """A size or time that differs between begin and end is reported."""
    path = tmp_path / "a.json"
    path.write_bytes(bytes(2 * HEAD_BYTES))
    with opened(source_of(path)) as stream:
        stream.read(10)
        if change == "touch":
            os.utime(path, (1, 1))
        else:
            os.truncate(path, HEAD_BYTES * (3 if change == "grow" else 1))
        _, fault = read_all(stream)
    assert "the file changed while it was read" in fault


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    """What cannot be opened is a SourceError that names it and the reason."""
    for name, message in (("none.json", "cannot read none.json: no such file or directory"), ("", "holds no file")):
        with pytest.raises(SourceError, match=message), opened(source_of(tmp_path / name)):
            pass


def test_standard_input_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard input is decompressed like a file; how large it is is not known."""
    compressed = io.BufferedReader(io.BytesIO(gzip.compress(b'[{"a":1}]')))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(compressed))
    with opened(named("-")[0]) as stream:
        assert stream.size is None
        assert read_all(stream) == (b'[{"a":1}]', "")


class _Drops(io.RawIOBase):
    """A pipe whose writer gives one byte at a time."""

    def __init__(self, content: bytes) -> None:
        self._bytes = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._bytes.read(1)
        buffer[: len(data)] = data
        return len(data)


@pytest.mark.parametrize("stored", [b'[{"a":1}]', gzip.compress(b'[{"a":1}]'), b"", b"[", b"\x1f"], ids=range(5))
def test_a_pipe_that_gives_a_byte_at_a_time(monkeypatch: pytest.MonkeyPatch, stored: bytes) -> None:
    """What a stream is shows in its first bytes, however slowly these come and however few there are."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(_Drops(stored))))
    with opened(named("-")[0]) as stream:
        assert read_all(stream) == (stored if len(stored) < 9 else b'[{"a":1}]', "")


def test_a_zip_archive_is_read_when_it_holds_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The only member of an archive is its content; several, or a stream that cannot seek, are reported."""
    path = tmp_path / "a"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("exports/", b"")
        archive.writestr("exports/a.json", NOISE)
    with opened(source_of(path)) as stream:
        assert read_all(stream) == (NOISE, "")
    whole = path.read_bytes()
    path.write_bytes(whole[:-100])
    with pytest.raises(SourceError, match="a: the compressed data ends too early"), opened(source_of(path)):
        pass
    pipe_end, other = os.pipe()
    os.write(other, whole[:100])
    os.close(other)
    with io.TextIOWrapper(os.fdopen(pipe_end, "rb")) as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        with pytest.raises(SourceError, match="table of contents at its end"), opened(named("-")[0]):
            pass
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a", b"")
        archive.writestr("b", b"")
    with pytest.raises(SourceError, match="expected a zip archive with one file, got 2"), opened(source_of(path)):
        pass


def test_a_parallel_zstd_is_read(tmp_path: Path) -> None:
    """A frame that is to be skipped, and comes first, is known as zstd as well."""
    path = tmp_path / "a"
    path.write_bytes(b"\x50\x2a\x4d\x18\x04\0\0\0size" + _zstd(b"[1,") + _zstd(b"2]"))
    with opened(source_of(path)) as stream:
        assert read_all(stream) == (b"[1,2]", "")
