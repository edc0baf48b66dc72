"""Names of columns and tables made of the names of members: what PostgreSQL reads without quotes. Pure."""

import hashlib
import re
import unicodedata
from collections.abc import Collection, Iterable

from etl.datasets import LINEAGE

LONGEST = 63
"""PostgreSQL cuts what is longer, in bytes; the names made here are ASCII."""

_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_NAME = re.compile(r"[^a-z0-9]+")


def words(text: str) -> frozenset[str]:
    """Return the words of a text."""
    return frozenset(text.split())


# Those that need quotes as the name of a column (pg_get_keywords(), catcode R and T), and those of the system.
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
    """Names that differ from one another and from those that are taken."""

    def __init__(self, taken: Collection[str] = ()) -> None:
        self._taken = {*taken, *LINEAGE}

    def new(self, words: Iterable[str]) -> str:
        """Return a new name made of words, with a number behind it where the name alone is taken."""
        wanted = snake_case(words)
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = _cut(wanted, LONGEST - len(f"_{number}")) + f"_{number}"
        self._taken.add(name)
        return name


def snake_case(words: Iterable[str]) -> str:
    """Return words as one name: small letters, digits and _, no word of SQL, never empty, at most 63 bytes."""
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
    """Return a name that is not longer; one that is cut stays different from the others."""
    if len(name) <= length:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:8]
    return f"{name[: length - 9]}_{digest}"
