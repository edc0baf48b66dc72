"""Names of columns and tables from the names of members: short, in small letters, mostly without quotes. Pure."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Sequence

from etl.datasets import DIGEST, LINEAGE

LONGEST = 63
"""PostgreSQL cuts longer names, in bytes."""

SHORT = 40
"""Proposed names are not longer: a person has to read and write them."""

_PART = 20
"""The name of a table has so many characters beside a long name of the dataset."""

_WORD_BOUNDARY = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z](?!s(?![a-z]))[a-z])")
_NO_NAME = re.compile(r"[^a-z0-9\x80-\U0010ffff]+")


def _spellings(letters: str, spelled: str) -> dict[str, str]:
    """Return how letters are spelled in ASCII; `_` is the spelling of a letter that has none."""
    return dict(zip(letters, spelled.replace("_", "").split(" "), strict=True))


_LATIN = _spellings("ßæœøłđðþıħŋ", "ss ae oe o l d d th i h n")
_CYRILLIC = _spellings(
    "абвгдеёжзийклмнопрстуфхцчшщъыьэюяіїєґјљњћђџўќѓѕ",
    "a b v g d e yo zh z i y k l m n o p r s t u f kh ts ch sh shch _ y _ e yu ya i yi ye g j lj nj c dj dz u k g dz",
)
_GREEK = _spellings(
    "αβγδεζηθικλμνξοπρσςτυφχψω",
    "a v g d e z i th i k l m n x o p r s s t y f ch ps o",
)
_LETTERS = _LATIN | _CYRILLIC | _GREEK
_SIGNS = {
    "%": "percent",
    "$": "dollar",
    "€": "euro",
    "£": "pound",
    "#": "number",
    "&": "and",
    "+": "plus",
    "°": "degree",
}
"""The words for signs, where a name has only signs."""


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

    def new(self, words: Iterable[str], *, longest: int = SHORT, shorter: Iterable[str] = ()) -> str:
        """Return a new name made of words, with a number at its end if the name alone is used.

        `shorter` are words that are used instead if their name is free.
        """
        brief = snake_case(shorter, longest) if shorter else ""
        if brief and brief not in self._used:
            self._used.add(brief)
            return brief
        stem = snake_case(words, longest)
        name, number = stem, 1
        while name in self._used:
            number += 1
            end = f"_{number}"
            name = _cut(stem, longest - len(end)).removesuffix("_") + end
        self._used.add(name)
        return name

    def table(self, dataset: str, words: Sequence[str], shorter: Sequence[str] = ()) -> str:
        """Return a new name of a table: that of the dataset, and words, of which the first ones may be left out.

        `shorter` are words that are used instead if their name is free.
        """
        for parts in filter(None, (list(shorter), list(words))):
            while len(parts) > 1 and _is_long(
                "_".join([dataset, *map(_word, parts)]), max(SHORT, len(dataset) + _PART)
            ):
                del parts[0]
            name = snake_case(["_".join([dataset, *_ascii(parts)])], LONGEST)
            if name not in self._used:
                self._used.add(name)
                return name
        return self.new(["_".join([dataset, *_ascii(words)])], longest=LONGEST)


def snake_case(words: Iterable[str], longest: int = SHORT) -> str:
    """Return words as one name: small letters, digits and _, no keyword of SQL, never empty.

    A name that is too long loses its first words, because the last ones say most; a single word is cut. Latin, Cyrillic
    and Greek letters become ASCII; letters of other scripts are kept.
    """
    parts = [part for part in map(_word, words) if part] or ["member"]
    while len(parts) > 1 and _is_long("_".join(parts), longest):
        del parts[0]
    name = _cut("_".join(parts), longest)
    if name[0].isdigit():
        name = _cut(f"n{name}", longest)
    return f"{name}_" if name in RESERVED else name


def ascii_name(text: str) -> str:
    """Return a text as the name of a dataset, which has no other letters than those of ASCII."""
    return snake_case(_ascii([text]))


def _ascii(names: Iterable[str]) -> list[str]:
    """Return names as the name of a table has them: without the letters of other scripts."""
    words = [_word(name).encode("ascii", "ignore").decode().strip("_") for name in names]
    return [word or "part" for word in words]


def words_of(name: str) -> list[str]:
    """Return the words of the name of a member, in small letters and in order."""
    return _word(name).split("_")


def _word(name: str) -> str:
    plain = _NO_NAME.sub("_", _WORD_BOUNDARY.sub("_", _plain(name)).lower()).strip("_")
    return plain or "_".join(_SIGNS[sign] for sign in name if sign in _SIGNS)


def _plain(name: str) -> str:
    """Return a name with ASCII for the letters that have such a spelling, and a blank for each sign."""
    if name.isascii():
        return name
    plain: list[str] = []
    for letter in unicodedata.normalize("NFC", name):
        base = unicodedata.normalize("NFKD", letter)
        if letter.isascii():
            plain.append(letter)
        elif letter.lower() in _LETTERS:
            text = _LETTERS[letter.lower()]
            plain.append(text if letter.islower() else text.capitalize())
        elif (base[0].isascii() and base[0].isalnum()) or base[0].lower() in _LETTERS:
            plain.append(_plain("".join(sign for sign in base if not unicodedata.combining(sign))))
        elif letter.isalnum() or (unicodedata.category(letter)[0] == "M" and plain and not plain[-1].isascii()):
            plain.append(letter)
        else:
            plain.append(" ")
    return "".join(plain)


def _is_long(name: str, longest: int) -> bool:
    return len(name) > longest or len(name.encode()) > LONGEST


def _cut(name: str, longest: int) -> str:
    """Return the beginning of a name, at most this long: whole words of it, if they are not too few."""
    if not _is_long(name, longest):
        return name
    cut = name[:longest]
    while len(cut.encode()) > LONGEST:
        cut = cut[:-1]
    whole = cut if name[len(cut) : len(cut) + 1] == "_" else cut.rpartition("_")[0]
    return whole if len(whole) > longest // 2 else cut.rstrip("_")
