"""The compression and the encoding of a file, recognised by its first bytes. Pure."""

from typing import Literal, NamedTuple

Compression = Literal["gzip", "bzip2", "xz", "zstd", "zip"]

COMPRESSIONS: dict[bytes, Compression] = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    # What a parallel zstd writes before its frames, to be skipped.
    **{bytes([0x50 + number]) + b"\x2a\x4d\x18": "zstd" for number in range(16)},
}
"""How compressed files begin."""


class Encoding(NamedTuple):
    """An encoding as Python calls it, and how many bytes of a byte-order mark come before the text."""

    name: str
    mark: int


# A longer beginning stands before the one that it begins with. JSON holds no NUL, so that one beside its first
# character tells the width and the order of bytes without a mark as well (RFC 4627, section 3).
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
"""How decompressed files begin that are not in UTF-8."""


def compression_of(beginning: bytes) -> Compression | None:
    """Return how a file is compressed that begins so, or None."""
    return next((name for start, name in COMPRESSIONS.items() if beginning.startswith(start)), None)


def encoding_of(beginning: bytes) -> Encoding | None:
    """Return the encoding of a decompressed file that begins so, or None for what is read as UTF-8."""
    found = next((found for start, found in ENCODINGS.items() if beginning.startswith(start)), None)
    if found is not None and found.name.startswith("utf-16") and not found.mark:
        # One NUL may be a damage: only where the second character, too, has one byte of its two is it UTF-16.
        second = beginning[2:4]
        return found if len(second) == 2 and second.count(0) == 1 and second.index(0) == beginning.index(0) else None
    return found
