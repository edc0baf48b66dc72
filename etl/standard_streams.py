"""Standard output and standard error of a process: a failed write ends no command, and a terminal gets no raw escape.

The exit code of a command is its result, so no print may change it. A stream that cannot be written drops the text and
keeps the error; the command line asks for it at the end.
"""

import codecs
import errno
import io
import os
import re
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

# C0, DEL, C1, separators of lines, marks that change the direction of text, and bytes of a name that are not UTF-8.
_CONTROLS = "\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_IN_LINES = re.compile(f"[{_CONTROLS}]")
_IN_A_LINE = re.compile(f"[\t\n{_CONTROLS}]")
_SHORT = {"\t": "\\t", "\n": "\\n", "\r": "\\r"}


def one_line(text: str) -> str:
    """Return a text with all control characters escaped, also line feeds: a name must not look like a line of ours."""
    return text if text.isascii() and text.isprintable() else _IN_A_LINE.sub(_escaped, text)


def printable(text: str) -> str:
    """Return a text of several lines with all control characters but tabs and line feeds escaped."""
    return text if text.isascii() and text.isprintable() else _IN_LINES.sub(_escaped, text)


def _escaped(match: re.Match[str]) -> str:
    # The spelling of JSON, so that JSON on a terminal stays JSON.
    return _SHORT.get(match[0], f"\\u{ord(match[0]):04x}")


class OutputLostError(Exception):
    """Standard output cannot be written any more; a command that only prints ends early by it."""


class _Descriptor(io.RawIOBase):
    """Writes to a file descriptor until a write fails; then it drops all, and `lost` is the error."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.lost: OSError | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return os.isatty(self._number)

    def fileno(self) -> int:
        """Return the number."""
        return self._number

    def write(self, data: "ReadableBuffer", /) -> int:
        """Write all of the data, or drop it."""
        view = memoryview(data).cast("B")
        place = 0
        while place < len(view) and self.lost is None:
            try:
                place += os.write(self._number, view[place:])
            except BlockingIOError:  # The other processes that have the stream made it so.
                select.select([], [self._number], [])
            except OSError as error:
                self.lost = error
        return len(view)


class StandardStream(io.TextIOWrapper):
    """A standard stream that can always be written. A character that a terminal would obey is escaped."""

    def __init__(self, number: int, encoding: str) -> None:
        self.descriptor = _Descriptor(number)
        self._is_terminal = self.descriptor.isatty()
        super().__init__(
            cast(BinaryIO, io.BufferedWriter(self.descriptor)),
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=self._is_terminal or number == 2,
        )

    @property
    def lost(self) -> OSError | None:
        """The error of the first write that failed."""
        return self.descriptor.lost

    def write(self, text: str, /) -> int:
        """Write a text."""
        return super().write(printable(text) if self._is_terminal else text)

    def write_styled(self, text: str) -> int:
        """Write a text with its escapes: colours, or a bar that is drawn again."""
        return super().write(text)


class _Styled(io.TextIOBase):
    """A standard stream for a library that draws; the parts that it draws are escaped one by one before."""

    def __init__(self, stream: StandardStream) -> None:
        self._stream = stream

    @property
    def encoding(self) -> str:  # type: ignore[override] # an attribute there, never written
        return self._stream.encoding

    def write(self, text: str, /) -> int:
        return self._stream.write_styled(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


def styled(stream: TextIO) -> TextIO:
    """Return a stream that passes escapes: for text whose parts were escaped one by one."""
    return cast(TextIO, _Styled(stream)) if isinstance(stream, StandardStream) else stream


def is_drawn_on(stream: TextIO) -> bool:
    """Return whether a stream is a terminal on which lines can be drawn again: it shows a bar instead of log lines."""
    return stream.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}


def install() -> None:
    """Let standard output and standard error of this process be streams that can always be written.

    A stream that is closed is opened on /dev/null, or a socket would get file descriptor 0, 1 or 2.
    """
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)
        sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)
    for number, name in ((1, "stdout"), (2, "stderr")):
        present = getattr(sys, name)
        if present is None:
            os.open(os.devnull, os.O_RDWR)
        setattr(sys, name, StandardStream(number, "utf-8" if present is None else present.encoding))


def lost_output() -> OSError | None:
    """Return the error after which standard output could not be written, None if all is written."""
    sys.stdout.flush()
    return sys.stdout.lost if isinstance(sys.stdout, StandardStream) else None


def has_no_reader(error: OSError) -> bool:
    """Return whether the reader of a pipe ended it, as `head` does."""
    return error.errno == errno.EPIPE


class _Bytes(io.RawIOBase):
    """Standard output for bytes; a write that fails ends the command that makes them."""

    def __init__(self, stream: StandardStream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace") if stream.isatty() else None

    def writable(self) -> bool:
        return True

    def write(self, data: "ReadableBuffer", /) -> int:
        content = bytes(data)
        if self._decoder is None:
            self._stream.descriptor.write(content)
        else:
            self._stream.write(self._decoder.decode(content))
        if self._stream.lost is not None:
            raise OutputLostError
        return len(content)


@contextmanager
def binary_output() -> Iterator[BinaryIO]:
    """Yield standard output for bytes; on a terminal their control characters are escaped.

    Raises OutputLostError as soon as they cannot be written.
    """
    sys.stdout.flush()
    if not isinstance(sys.stdout, StandardStream):
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    output = io.BufferedWriter(_Bytes(sys.stdout))
    try:
        yield cast(BinaryIO, output)
        output.flush()
    finally:
        output.detach()
