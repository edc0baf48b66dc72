"""The types of columns: one table that every other module reads. Values, and nothing else.

To add a type: name it in the Literal of its family, add its entry to the table, and write its conversion and its token
check in the module of `etl/ingestion/transform/` that its family names. mypy and the tests name whatever is missing.
"""

import re
from collections.abc import Mapping
from decimal import Decimal
from types import MappingProxyType
from typing import Final, Literal, LiteralString

from etl.quick_dataclasses import dataclass

TextName = Literal["text"]
NumberName = Literal["smallint", "integer", "bigint", "numeric", "double"]
WordName = Literal["boolean", "uuid"]
TimeName = Literal["date", "time", "timestamp", "timestamptz"]
StructureName = Literal["jsonb", "text[]"]

Type = Literal[TextName, NumberName, WordName, TimeName, StructureName]

_BOUNDS: Final = frozenset({"min", "above", "max"})
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
_CLOCK = re.compile(r"((?:[01][0-9]|2[0-3]):[0-5][0-9])(?::([0-5][0-9])(?:\.([0-9]{1,6}))?)?|24:00(?::00)?")


@dataclass(frozen=True, kw_only=True)
class _Entry:
    """The parts that all entries of the table have.

    `sql` is the type in a statement, `long_name` is the name that PostgreSQL's catalogue gives it where that differs.
    `aliases` are other names of the type in PostgreSQL. `synonyms` are names from elsewhere, which PostgreSQL does not
    know: an error for one of them proposes this type. `options` are the options of a column that not every type has.
    `examples` are JSON values for the reference page and the tests: some fit, some do not. `is_read_from_tokens`:
    PostgreSQL reads the JSON token and decides whether it fits, so only a column of this very type gets the value that
    the checked path would send. `is_inferred`: `etl dataset infer` may propose it.
    """

    sql: LiteralString
    long_name: str = ""
    aliases: tuple[str, ...] = ()
    synonyms: tuple[str, ...] = ()
    options: frozenset[str] = frozenset()
    examples: tuple[str, ...] = ()
    is_read_from_tokens: bool = False
    is_inferred: bool = False

    @property
    def server_name(self) -> str:
        """The name of the type in PostgreSQL's catalogue."""
        return self.long_name or self.sql

    @property
    def is_single(self) -> bool:
        """Whether a value is a single one: it can be compared, be a key, and have a default."""
        return True

    def bound(self, text: str) -> Decimal | str:
        """Read a bound of the type as the value that PostgreSQL compares with.

        Raises ValueError with what is expected.
        """
        raise NotImplementedError(f"{self.sql} has no bounds: its options name none")


@dataclass(frozen=True, kw_only=True)
class TextType(_Entry):
    """Text: any string, number or boolean of JSON. Converted in `transform/texts.py`."""

    name: TextName


@dataclass(frozen=True, kw_only=True)
class NumberType(_Entry):
    """A number; `limits` are the least and the largest of a whole one. Converted in `transform/numbers.py`."""

    name: NumberName
    limits: tuple[int, int] | None = None
    options: frozenset[str] = _BOUNDS | {"decimal"}
    is_read_from_tokens: bool = True

    def bound(self, text: str) -> Decimal:
        """Read a bound: digits with or without a fraction."""
        if not _NUMBER.fullmatch(text):
            raise ValueError("a plain number")
        return Decimal(text)


@dataclass(frozen=True, kw_only=True)
class WordType(_Entry):
    """A single word of a fixed form. Converted in `transform/words.py`."""

    name: WordName


@dataclass(frozen=True, kw_only=True)
class TimeType(_Entry):
    """A date, a time or both. Converted in `transform/times.py`.

    `parts` are what each of its formats must name; `zone` is what becomes of a zone in a format.
    """

    name: TimeName
    parts: tuple[Literal["year", "month", "day", "hour"], ...] = ("year", "month", "day")
    zone: Literal["ignored", "refused", "required"]
    options: frozenset[str] = frozenset({"formats"})
    is_read_from_tokens: bool = True

    def bound(self, text: str) -> str:
        """Read a bound: a time of day, which becomes a text of hours to microseconds."""
        match = _CLOCK.fullmatch(text)
        if match is None:
            raise ValueError("a time of day such as 08:15")
        minutes, seconds, fraction = match.groups()
        return f"{minutes or '24:00'}:{seconds or '00'}.{fraction or '':0<6}"


@dataclass(frozen=True, kw_only=True)
class StructureType(_Entry):
    """A value with parts. Converted in `transform/structures.py`."""

    name: StructureName

    @property
    def is_single(self) -> bool:
        """False: it has parts."""
        return False


@dataclass(frozen=True, kw_only=True)
class ServerType(_Entry):
    """Any other type of the server, which judges its values. Converted in `transform/served.py`.

    `sql` is the name as the definition has it. `form` is the text that a value becomes: its own, that of an array, that
    of an array of JSON, or JSON itself, for a
    vector only of an array of numbers. `delimiter` is between the elements of an array.
    """

    name: str
    form: Literal["text", "array", "documents", "vector", "json"] = "text"
    delimiter: str = ","

    @property
    def is_single(self) -> bool:
        """Whether a value is a single one: it can be compared, be a key, and have a default."""
        return self.form == "text"


ColumnType = TextType | NumberType | WordType | TimeType | StructureType | ServerType

_KnownType = TextType | NumberType | WordType | TimeType | StructureType

_TABLE: Final[tuple[_KnownType, ...]] = (
    TextType(
        name="text",
        sql="text",
        synonyms=("string",),
        options=frozenset({"max_length", "one_of"}),
        examples=('"Zürich"', '""', "12.50", "1e3", "true", '{"a": 1}', r'"a\u0000b"', r'"\ud800"'),
        is_inferred=True,
    ),
    NumberType(
        name="smallint",
        sql="smallint",
        aliases=("int2",),
        limits=(-(1 << 15), (1 << 15) - 1),
        examples=("42", "32768"),
    ),
    NumberType(
        name="integer",
        sql="integer",
        aliases=("int", "int4"),
        limits=(-(1 << 31), (1 << 31) - 1),
        examples=("800", "800.0", "8e2", '"42"', "800.5", "3000000000", '"8 kg"', "true"),
    ),
    NumberType(
        name="bigint",
        sql="bigint",
        aliases=("int8",),
        limits=(-(1 << 63), (1 << 63) - 1),
        examples=("123456789012345678", "9223372036854775808"),
        is_inferred=True,
    ),
    NumberType(
        name="numeric",
        sql="numeric",
        aliases=("decimal",),
        synonyms=("number",),
        examples=("0.10", '" 12.5 "', "123456789012345678901234567890.123", '"1,000"', '"NaN"'),
        is_inferred=True,
    ),
    NumberType(
        name="double",
        sql="double precision",
        aliases=("double precision", "float", "float8"),
        examples=("0.1", '"1e-7"', "1e400"),
    ),
    WordType(
        name="boolean",
        sql="boolean",
        aliases=("bool",),
        options=frozenset({"true", "false"}),
        examples=("true", '"false"', "1", '"yes"'),
        is_read_from_tokens=True,
        is_inferred=True,
    ),
    WordType(
        name="uuid",
        sql="uuid",
        synonyms=("guid",),
        examples=(
            *('"0f8fad5b-d9cb-469f-a165-70867728950e"', '"0F8FAD5B-D9CB-469F-A165-70867728950E"'),
            *('"0f8fad5bd9cb469fa16570867728950e"', '"{0f8fad5b-d9cb-469f-a165-70867728950e}"', '""'),
        ),
    ),
    TimeType(
        name="date",
        sql="date",
        zone="ignored",
        examples=('"2026-11-21"', '"2025-13-01"', '"21.11.2026"', '"2026-11-21T08:15:00Z"'),
        is_inferred=True,
    ),
    TimeType(
        name="time",
        sql="time",
        long_name="time without time zone",
        aliases=("time without time zone",),
        zone="refused",
        parts=("hour",),
        options=frozenset({"formats"}) | _BOUNDS,
        examples=(
            *('"08:15"', '"08:15:30"', '"08:15:30.1234567"', '"24:00"', '"24:01"', '"8:15"', '"08:15:30Z"'),
            *('"2026-11-21T08:15:00"', "815"),
        ),
    ),
    TimeType(
        name="timestamp",
        sql="timestamp",
        long_name="timestamp without time zone",
        aliases=("timestamp without time zone",),
        zone="refused",
        examples=('"2026-11-21T08:15:00"', '"2026-11-21"', '"2026-11-21T24:00"', '"2026-11-21T08:15:00Z"'),
        is_inferred=True,
    ),
    TimeType(
        name="timestamptz",
        sql="timestamptz",
        long_name="timestamp with time zone",
        aliases=("timestamp with time zone",),
        synonyms=("datetime",),
        zone="required",
        options=frozenset({"formats", "timezone"}),
        examples=(
            *('"2026-11-21T08:15:00Z"', '"2026-11-21 08:15+05:30"', '"2026-11-21T08:15:00.1234567-0300"'),
            *('"2026-11-21T08:15:00"', '"2026-11-21"', '"now"', '"9/11/14"', "1795248900"),
        ),
        is_inferred=True,
    ),
    StructureType(
        name="jsonb",
        sql="jsonb",
        examples=('{"a": [1, 2.50]}', '"text"', r'{"a": "\u0000"}'),
        is_read_from_tokens=True,
        is_inferred=True,
    ),
    StructureType(
        name="text[]",
        sql="text[]",
        synonyms=("array",),
        examples=('["a", "b"]', '["a", 1.50, null]', "[]", '"a"', '[["a"]]'),
        is_inferred=True,
    ),
)

TYPES: Final[Mapping[str, ColumnType]] = MappingProxyType({entry.name: entry for entry in _TABLE})
"""The entry of each type that the loader knows itself."""

ALIASES: Final = MappingProxyType({alias: entry.name for entry in _TABLE for alias in (entry.name, *entry.aliases)})
"""The names of these types in PostgreSQL."""

INFERRED_TIMES: Final[tuple[TimeName, ...]] = tuple(
    entry.name for entry in _TABLE if isinstance(entry, TimeType) and entry.is_inferred
)
"""The dates and times that `etl dataset infer` looks for in texts."""

SYNONYMS: Final = MappingProxyType({synonym: entry.name for entry in _TABLE for synonym in entry.synonyms})
"""Names of types elsewhere, each with the type that is meant."""

OPTIONS: Final[frozenset[str]] = frozenset().union(*(entry.options for entry in _TABLE))
"""The options of a column that not every type has."""


def type_of(name: str) -> ColumnType:
    """Return the type of that name: one that the loader knows, else one of the server.

    Raises ValueError if it cannot be the name of a type.
    """
    entry = TYPES.get(name)
    if entry is None:
        from etl.datasets.server_types import server_type  # noqa: PLC0415 - most definitions name no other type

        entry = server_type(name)
    return entry


def with_option(option: str) -> str:
    """Return the types that have an option, as a sentence names them."""
    *names, last = (entry.name for entry in _TABLE if option in entry.options)
    return f"{', '.join(names)} or {last}" if names else last
