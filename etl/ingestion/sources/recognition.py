"""The compression, the encoding and the line ends of a file, recognised by its first bytes. Pure."""

from typing import Final, Literal, NamedTuple

Compression = Literal["gzip", "bzip2", "xz", "zstd", "zip"]

COMPRESSIONS: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    # Skippable frames, which a parallel zstd writes before its data frames.
    **{bytes([0x50 + number]) + b"\x2a\x4d\x18": "zstd" for number in range(16)},
}
"""The first bytes of compressed files."""


class Encoding(NamedTuple):
    """An encoding by its Python name, and the length of the byte-order mark before the text, in bytes."""

    name: str
    mark: int


# A longer beginning comes before its prefix. JSON has no NUL, so that a NUL beside the first character shows the width
# and the order of bytes, too, when there is no mark (RFC 4627, section 3).
ENCODINGS = {
    b"\xff\xfe\x00\x00": Encoding("utf-32-le", 4),
    b"\x00\x00\xfe\xff": Encoding("utf-32-be", 4),
    b"\xff\xfe": Encoding("utf-16-le", 2),
    b"\xfe\xff": Encoding("utf-16-be", 2),
    **{bytes([first, 0, 0, 0]): Encoding("utf-32-le", 0) for first in b"[{"},
    **{bytes([0, 0, 0, first]): Encoding("utf-32-be", 0) for first in b"[{"},
    **{bytes([first, 0]): Encoding("utf-16-le", 0) for first in b"[{"},
    **{bytes([0, first]): Encoding("utf-16-be", 0) for first in b"[{"},
}
"""The first bytes of decompressed files that are not in UTF-8."""

TAR_BLOCK_BYTES: Final = 512
"""A tar archive consists of blocks; its first one shows what it is."""

_TAR_MARK, _TAR_MARK_AT = b"ustar", 257

_RECORD_SEPARATOR = b"\x1e"
"""Begins each record of a JSON text sequence (RFC 7464)."""

# One byte becomes one byte, so that no offset changes. Within a JSON string both occur as escapes only.
_LINE_FEEDS = bytes.maketrans(b"\r" + _RECORD_SEPARATOR, b"\n ")


def compression_of(beginning: bytes) -> Compression | None:
    """Return the compression of a file that begins so, or None."""
    return next((name for start, name in COMPRESSIONS.items() if beginning.startswith(start)), None)


def is_tar(beginning: bytes) -> bool:
    """Return whether a file that begins so is a tar archive."""
    return beginning[_TAR_MARK_AT : _TAR_MARK_AT + len(_TAR_MARK)] == _TAR_MARK


def encoding_of(beginning: bytes) -> Encoding | None:
    """Return the encoding of a decompressed file that begins so, or None for UTF-8."""
    encoding = next((encoding for start, encoding in ENCODINGS.items() if beginning.startswith(start)), None)
    if encoding is not None and encoding.name.startswith("utf-16") and not encoding.mark:
        # One NUL may be damage: in UTF-16 the second character, too, has a NUL in the same byte.
        second = beginning[2:4]
        is_utf16 = len(second) == 2 and second.count(0) == 1 and second.index(0) == beginning.index(0)
        return encoding if is_utf16 else None
    return encoding


def line_feeds(head: bytes) -> bytes | None:
    """Return the translation to line feeds that a text needs, or None; `head` is its beginning.

    A text needs it when its lines end with carriage returns alone, or when record separators begin its records.
    """
    has_returns_only = b"\r" in head and b"\n" not in head
    return _LINE_FEEDS if has_returns_only or head.startswith(_RECORD_SEPARATOR) else None
