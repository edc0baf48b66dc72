"""Names of columns and tables from the names of members: PostgreSQL reads them without quotes. Pure."""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable

from etl.datasets import DIGEST, LINEAGE

LONGEST = 63
"""PostgreSQL cuts longer names, in bytes; the names made here are ASCII."""

_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_NAME = re.compile(r"[^a-z0-9]+")


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# Keywords that need quotes as the name of a column (pg_get_keywords(), catcode R and T), and the system's columns.
RESERVED = words(
    """
    all analyse analyze and any array as asc asymmetric authorization binary both case cast check collate
    collation column concurrently constraint create cross current_catalog current_date current_role
    current_schema current_time current_timestamp current_user default deferrable desc distinct do else end
    except false fetch for foreign freeze from full grant group having ilike in initially inner intersect into
    is isnull join lateral leading left like limit localtime localtimestamp natural not notnull null offset on
    only or order outer overlaps placing primary references returning right select session_user similar some
    symmetric system_user table tablesample then to trailing true union unique user using variadic verbose when
    where window with tableoid xmin cmin xmax cmax ctid
    """
)


class Names:
    """Gives names that differ from one another and from the used ones."""

    def __init__(self, used: Collection[str] = ()) -> None:
        self._used = {*used, *LINEAGE, DIGEST}

    def new(self, words: Iterable[str]) -> str:
        """Return a new name made of words, with a number at its end if the name alone is used."""
        stem = snake_case(words)
        name, number = stem, 1
        while name in self._used:
            number += 1
            name = _cut(stem, LONGEST - len(f"_{number}")) + f"_{number}"
        self._used.add(name)
        return name


def snake_case(words: Iterable[str]) -> str:
    """Return words as one name: small letters, digits and _, no keyword of SQL, never empty, at most 63 bytes."""
    name = "_".join(filter(None, map(_word, words))) or "member"
    if name[0].isdigit():
        name = f"n{name}"
    if name in RESERVED:
        name = f"{name}_"
    return _cut(name, LONGEST)


def _word(name: str) -> str:
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    return _NO_NAME.sub("_", _WORD_BOUNDARY.sub("_", plain).lower()).strip("_")


def _cut(name: str, length: int) -> str:
    """Return a name of at most this length; a longer name is cut and ends with its digest."""
    if len(name) <= length:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: length - 9]}_{digest}"
