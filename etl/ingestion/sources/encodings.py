"""Text of any encoding -> UTF-8, a part at a time.

UTF-8 passes unchanged, even with invalid bytes: the record with an invalid byte is reported later. In other encodings
an invalid byte ends the text, because the text after it cannot be trusted.
"""

import codecs
from typing import Protocol

from etl.errors import UsageError
from etl.ingestion.constants import READ_BYTES


class Reader(Protocol):
    """Reads bytes in order, once."""

    def read1(self, size: int, /) -> bytes:
        """Return at most `size` bytes, as soon as there are some; no bytes at the end."""


class InvalidTextError(ValueError):
    """An invalid byte, at `position` in the bytes to be decoded."""

    def __init__(self, position: int) -> None:
        super().__init__(position)
        self.position = position


class Utf8Reader:
    """Reads text of another encoding as UTF-8. `mark` is the length of the byte-order mark before it, in bytes."""

    def __init__(self, reader: Reader, encoding: str, mark: int) -> None:
        self._reader = reader
        self._decoder = codecs.getincrementaldecoder(encoding)()
        self._mark = mark
        self._decoded_bytes = 0
        self._pending = b""
        self._is_ended = False
        self._fault: InvalidTextError | None = None

    def read1(self, size: int, /) -> bytes:
        """Return at most `size` bytes of UTF-8; no bytes at the end.

        Raises InvalidTextError at an invalid byte, after the bytes before it were given out.
        """
        while not self._pending:
            if self._fault is not None:
                raise self._fault
            if self._is_ended:
                return b""
            self._pending = self._decode(self._reader.read1(READ_BYTES))
        data, self._pending = self._pending[:size], self._pending[size:]
        return data

    def _decode(self, data: bytes) -> bytes:
        self._is_ended = not data
        mark = data[: self._mark]
        self._mark -= len(mark)
        self._decoded_bytes += len(mark)
        data = data[len(mark) :]
        before = self._decoder.getstate()
        try:
            text = self._decoder.decode(data, final=self._is_ended)
        except UnicodeDecodeError as error:
            # The error's offsets begin with the bytes that the decoder kept of the previous part.
            valid = error.start - len(before[0])
            self._fault = InvalidTextError(self._decoded_bytes + valid)
            self._decoder.setstate(before)
            text = self._decoder.decode(data[: max(0, valid)])
        self._decoded_bytes += len(data)
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
    """Return whether this is a name of UTF-8."""
    return codecs.lookup(encoding).name == "utf-8"
