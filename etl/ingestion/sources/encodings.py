"""Text of any encoding and any line ends -> UTF-8 with line feeds, a part at a time.

What is UTF-8 passes as it is, be it right or not: which record holds an invalid byte is told later. Of another encoding
nothing behind an invalid byte can be trusted, so that it ends the text.
"""

import codecs

from etl.errors import UsageError
from etl.ingestion.constants import READ_BYTES
from etl.ingestion.sources.compression import Reader

_RECORD_SEPARATOR = b"\x1e"
"""Begins each record of a JSON text sequence (RFC 7464)."""

# One byte for one byte: no offset changes. Neither can stand within a JSON text but as an escape.
_LINE_FEEDS = bytes.maketrans(b"\r" + _RECORD_SEPARATOR, b"\n ")


class NotText(ValueError):
    """An invalid byte: where it stands, in bytes of what is decoded."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class Utf8Reader:
    """Reads text of another encoding as UTF-8. `mark` is the byte-order mark that comes before it, in bytes."""

    def __init__(self, reader: Reader, encoding: str, mark: int) -> None:
        self._reader = reader
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._mark = mark
        self._given = 0
        self._held = b""
        self._is_ended = False
        self._fault: NotText | None = None

    def read1(self, size: int, /) -> bytes:
        """Return at most `size` bytes of UTF-8; none at the end.

        Raises NotText where a byte is invalid, after what comes before it was given out.
        """
        while not self._held:
            if self._fault is not None:
                raise self._fault
            if self._is_ended:
                return b""
            self._held = self._decoded(self._reader.read1(READ_BYTES))
        given, self._held = self._held[:size], self._held[size:]
        return given

    def _decoded(self, data: bytes) -> bytes:
        self._is_ended = not data
        passed = data[: self._mark]
        self._mark -= len(passed)
        self._given += len(passed)
        data = data[len(passed) :]
        before = self._decoder.getstate()
        try:
            text = self._decoder.decode(data, final=self._is_ended)
        except UnicodeDecodeError as error:
            # What it speaks of begins with what the decoder had kept of the part before.
            valid = error.start - len(before[0])
            self._fault = NotText(self._given + valid)
            self._decoder.setstate(before)
            text = self._decoder.decode(data[: max(0, valid)])
        self._given += len(data)
        return text.encode(errors="surrogatepass")


def require_known(encoding: str) -> None:
    """Raise UsageError when Python knows no encoding of text by this name."""
    try:
        codecs.getincrementaldecoder(encoding)().decode(b"", final=True).encode()
    except (LookupError, AttributeError, TypeError, ValueError):
        raise UsageError(
            f"--encoding expects auto or the name of an encoding, got {encoding!r}",
            hint="for example latin-1, cp1252, utf-16, shift_jis",
        ) from None


def is_utf8(encoding: str) -> bool:
    """Tell whether this is a name of UTF-8."""
    return codecs.lookup(encoding).name == "utf-8"


def line_feeds(head: bytes) -> bytes | None:
    """Return the translation that gives a text line feeds, or None where its beginning shows that it needs none.

    Records that end with carriage returns alone, or that begin with separators, are then records on lines.
    """
    has_returns_only = b"\r" in head and b"\n" not in head
    return _LINE_FEEDS if has_returns_only or head.startswith(_RECORD_SEPARATOR) else None
