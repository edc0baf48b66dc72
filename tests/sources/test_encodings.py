import gzip
from pathlib import Path

import pytest

from etl.errors import UsageError
from etl.ingestion.constants import HEAD_BYTES, READ_BYTES
from etl.ingestion.sources.encodings import require_known
from etl.ingestion.sources.stream import opened
from etl.ingestion.values import Source
from tests.support.streams import read_all, source_of

TEXT = '[{"city": "Łódź"},\n {"city": "上海 😀"}]'


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le", "utf-32-be"])
def test_an_encoding_known_by_the_first_bytes_needs_no_option(tmp_path: Path, encoding: str) -> None:
    """UTF-16 and UTF-32 are read as UTF-8, with or without a byte-order mark, compressed or not."""
    text = TEXT * 5000
    for mark in (True, False) if encoding[-2:] in {"le", "be"} else (False,):
        stored = (("\ufeff" if mark else "") + text).encode(encoding)
        (tmp_path / "a").write_bytes(gzip.compress(stored) if mark else stored)
        with opened(source_of(tmp_path / "a")) as stream:
            assert read_all(stream, 1000) == (text.encode(), "")
            assert stream.encoding.startswith(encoding)
            assert stream.plain_path is None


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "iso8859-15", "shift_jis", "gb18030", "utf-16", "cp037"])
def test_a_named_encoding_is_read_as_utf_8(tmp_path: Path, encoding: str) -> None:
    """A source in any encoding of Python is read as UTF-8; its head and its offsets are of this UTF-8."""
    text = (TEXT if encoding in {"gb18030", "utf-16"} else '[{"city": "Curitiba"}]') * 100
    text += "São Paulo" if encoding in {"latin-1", "cp1252", "iso8859-15", "cp037"} else "東京"
    (tmp_path / "a").write_bytes(text.encode(encoding))
    with opened(Source(name="a", path=str(tmp_path / "a"), encoding=encoding)) as stream:
        assert stream.head == text.encode()
        assert read_all(stream, 77) == (text.encode(), "")
    for name in ("klingon", "rot13", "base64", "\0"):
        with pytest.raises(UsageError, match="--encoding expects auto or the name of an encoding"):
            require_known(name)
    require_known(encoding)


def test_an_invalid_byte_of_another_encoding_is_a_fault(tmp_path: Path) -> None:
    """The text before an invalid byte is returned; the fault has its byte in the file and in the content."""
    path = tmp_path / "a"
    for begin in (0, READ_BYTES - 1):
        text = "é" * begin + "ab"
        path.write_bytes("\ufeff".encode("utf-16-le") + text.encode("utf-16-le") + b"\x00\xdc" + b"c\0")
        with opened(source_of(path)) as stream:
            given, fault = read_all(stream)
            assert given == text.encode()
            at = 2 + 2 * len(text)
            assert fault == f"a: invalid utf-16-le at byte {at} of the file, at byte {len(given)} of its content"
            assert read_all(stream) == (b"", fault)
    path.write_bytes("\ufeff[1]".encode("utf-16-le")[:-1])
    with opened(source_of(path)) as stream:
        assert read_all(stream) == (b"[1", "a: invalid utf-16-le at byte 6 of the file, at byte 2 of its content")


def test_invalid_utf_8_is_read_unchanged(tmp_path: Path) -> None:
    """UTF-8 is returned unchanged, valid or not: the record at fault is reported later."""
    for encoding in ("auto", "utf-8", "UTF8"):
        (tmp_path / "a").write_bytes(b'\xef\xbb\xbf["\xff"]')
        with opened(Source(name="a", path=str(tmp_path / "a"), encoding=encoding)) as stream:
            assert read_all(stream) == (b'\xef\xbb\xbf["\xff"]', "")
            assert stream.plain_path


def test_carriage_returns_and_separators_become_line_feeds(tmp_path: Path) -> None:
    """Lines that end with CR alone, and records after separators (RFC 7464), are lines; offsets are unchanged."""
    path = tmp_path / "a"
    line = b'{"a": "' + b"x" * 1000 + b'"}'
    count = HEAD_BYTES // 1000 + 5
    path.write_bytes((line + b"\r") * count)
    with opened(source_of(path)) as stream:
        assert read_all(stream) == ((line + b"\n") * count, "")
        assert stream.plain_path is None
    path.write_bytes((b"\x1e" + line + b"\n") * count)
    with opened(source_of(path)) as stream:
        assert read_all(stream) == ((b" " + line + b"\n") * count, "")
    path.write_bytes((line + b"\r\n") * 3)
    with opened(source_of(path)) as stream:
        assert read_all(stream) == ((line + b"\r\n") * 3, "")
        assert stream.plain_path
