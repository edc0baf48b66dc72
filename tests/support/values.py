"""Values of every kind, to be converted and to be stored."""

import json
from datetime import date
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

from etl.datasets import TYPES, Column, Type
from etl.ingestion.transform.acceptance import acceptor
from etl.ingestion.transform.rules import Token
from etl.ingestion.transform.types import converter
from etl.ingestion.values import Misfit

# The limits of PostgreSQL's types, and values near them.
EDGES = [0, 1, 1 << 15, 1 << 31, 1 << 53, 1 << 63, 1 << 64, 10**28, 10**40, 10**308, 10**400]
INTEGERS = st.integers() | st.builds(
    lambda edge, step, sign: sign * edge + step, st.sampled_from(EDGES), st.integers(-2, 2), st.sampled_from([1, -1])
)
EXPONENTS = (
    st.integers(-330, 330)
    | st.sampled_from([-(10**17), -16_384, -16_383, 131_071, 131_072, 10**17])
    | st.integers(-5, 5)
)
DECIMALS = st.builds(
    lambda digits, point, exponent: Decimal(f"{digits}e{exponent - point}"),
    INTEGERS,
    st.integers(0, 40),
    EXPONENTS,
) | st.sampled_from(
    [
        Decimal(text)
        for text in (
            "5e-324",
            "3e-324",
            "2e-324",
            "-2.4703e-324",
            "1.7976931348623157e308",
            "1.7976931348623159e308",
            "0e-16384",
            "0e-16383",
            "0e200000",
            "-0.0",
            "1e-16383",
            "9.5e131071",
            "32767.0",
            "2147483647.000",
            "-9223372036854775808.0",
            "0." + "0" * 16_382 + "1",
            "9" * 131_072,
            "9" * 131_073,
        )
    ]
)
NUMBERS = INTEGERS | DECIMALS
CHARACTERS = (
    st.sampled_from("\t\n\r\\N.'\",{}\x00\x01\x7f\u0085\u00a0\u2028\ud800\udfff\ufeff\U0001f69a \u00e9")
    | st.characters()
)
TEXTS = st.text(CHARACTERS, max_size=20) | st.sampled_from(["", "\\N", "\\.", "\n\\.\n", "NULL", "null", '""'])
NUMBER_TEXTS = st.builds(
    lambda before, number, after: f"{before}{number}{after}",
    st.sampled_from(["", " ", "\t\n", "+", "0", "\u00a0", "$"]),
    NUMBERS.map(lambda n: str(n) if abs(n.adjusted() if isinstance(n, Decimal) else 0) < 500 else "1e7"),
    st.sampled_from(["", " ", "\r\v\f", ".", "e2", "_0", "L", "%"]),
) | st.sampled_from(
    [
        "",
        " ",
        "NaN",
        "Infinity",
        "-inf",
        "0x1F",
        "0b1",
        "1_000",
        ".5",
        "5.",
        ".",
        "1e",
        "1e9999999999",
        "1e-9999999999",
        "e5",
        "\u0663",
        "1,5",
        "--1",
        "+-1",
        "1 2",
    ]
)
OTHERS: st.SearchStrategy[Any] = st.sampled_from([{}, [], [1], {"a": "b"}, True, False])


def _usually(low: int, high: int, *odd: int) -> st.SearchStrategy[str]:
    """Return two digits of a field, sometimes digits that are invalid."""
    fields = st.sampled_from(odd) if odd else st.nothing()
    numbers = st.integers(0, 9).flatmap(lambda chance: fields if odd and chance == 0 else st.integers(low, high))
    return numbers.map("{:02}".format)


@st.composite
def times(draw: st.DrawFn) -> str:
    """Draw a time with a zone as people write it, sometimes with an invalid field."""
    year = draw(_usually(1, 9999, 0, 10_000)).zfill(4)
    day = f"{year}-{draw(_usually(1, 12, 0, 13))}-{draw(_usually(1, 28, 0, 29, 30, 31, 32))}"
    clock = f"{draw(_usually(0, 23, 24, 25))}:{draw(_usually(0, 59, 60))}"
    if draw(st.booleans()):
        clock += f":{draw(_usually(0, 59, 60, 61))}"
        if draw(st.booleans()):
            clock += "." + draw(st.text("0123456789", min_size=1, max_size=9) | st.sampled_from(["0" * 200, "9" * 200]))
    special = ["24:00", "24:00:00", "24:00:00.000", "23:59:60", "10:15:60", "23:59:60.0", "23:59:60.5", "24:00:01"]
    clock = draw(st.just(clock) | st.just(clock) | st.sampled_from(special))
    zones = ["Z", "+00:00", "-00", "+15:59", "-1559", "+16:00", "-16", "+0530", "+05:60", " +02", " Z", ""]
    return day + draw(st.sampled_from(["T", " "])) + clock + draw(st.sampled_from(zones))


TIMES = times() | st.sampled_from(
    [
        "now",
        "infinity",
        "epoch",
        "9/11/14",
        "",
        "2026-11-21",
        "20261121T081500Z",
        "2026-W47-6T00:00Z",
        "2026-11-21T08:15:00,5Z",
        "2026-11-21T10:15.5Z",
        "2026-11-21t08:15:00z",
        " 2026-11-21T08:15:00Z",
        "2026-11-21T08:15:00Z\n",
        "2026-11-21T08:15:00 UTC",
        "2026-11-21T8:15:00Z",
        "0001-01-01T00:00:00+15:59",
        "9999-12-31T23:59:59.9999999Z",
        "\u0662026-11-21T08:15:00Z",
        "2024-02-29T00:00:00Z",
        "2100-02-29T00:00:00Z",
    ]
)
DATES = (
    st.dates().map(date.isoformat)
    | st.builds("{:04}-{:02}-{:02}".format, st.integers(0, 9999), st.integers(0, 13), st.integers(0, 32))
    | st.sampled_from(
        [
            "today",
            "infinity",
            "20261121",
            "2026-1-1",
            "21.11.2026",
            "",
            "2026-11-21 ",
            "2026-11-21T00:00:00Z",
            "10000-01-01",
        ]
    )
)
CLOCKS = (
    st.times().map(lambda clock: clock.isoformat())
    | st.builds("{:02}:{:02}".format, st.integers(0, 24), st.integers(0, 60))
    | times().map(lambda text: text[11:])
    | st.sampled_from(["24:00", "24:00:00.0", "23:59:60", "8:15", "0815", "08:15 PM", "now", "allballs", "", "08:15Z"])
)
UUIDS = st.uuids().map(str) | st.uuids().flatmap(
    lambda number: st.sampled_from(
        [str(number).upper(), number.hex, f"{{{number}}}", f" {number}", f"{number}\n", str(number)[:-1], f"{number}0"]
    )
)
JSON: st.SearchStrategy[Any] = st.recursive(
    OTHERS | NUMBERS | TEXTS,
    lambda inner: st.lists(inner | st.none(), max_size=3) | st.dictionaries(TEXTS, inner | st.none(), max_size=3),
    max_leaves=5,
)

VALUES: dict[str, st.SearchStrategy[Any]] = {
    "text": TEXTS | NUMBERS | OTHERS,
    "smallint": NUMBERS | NUMBER_TEXTS | OTHERS,
    "integer": NUMBERS | NUMBER_TEXTS | OTHERS,
    "bigint": NUMBERS | NUMBER_TEXTS | OTHERS,
    "numeric": NUMBERS | NUMBER_TEXTS | OTHERS,
    "double": NUMBERS | NUMBER_TEXTS | OTHERS,
    "boolean": OTHERS | st.sampled_from([0, 1, Decimal("1.0"), "true", "false", "TRUE", "t", "yes", "1", ""]),
    "uuid": UUIDS | OTHERS,
    "date": DATES | OTHERS,
    "time": CLOCKS | OTHERS,
    "timestamptz": TIMES | TIMES | OTHERS,
    "jsonb": JSON,
}

# (type, value, SQLSTATE): misfits by C5, also if PostgreSQL would accept them.
MISFITS: list[tuple[Type, Any, str]] = [
    ("text", {}, "22P02"),
    ("text", ["a"], "22P02"),
    ("text", "a\x00", "22021"),
    ("text", "\ud83d", "22021"),
    ("text", "\ude9a\ud83d", "22021"),
    ("text", Decimal("1e131072"), "22003"),
    ("text", Decimal("1e-16384"), "22003"),
    ("smallint", 32_768, "22003"),
    ("smallint", -32_769, "22003"),
    ("integer", 2_147_483_648, "22003"),
    ("integer", "-2147483649", "22003"),
    ("integer", Decimal("2147483648.0"), "22003"),
    ("bigint", 9_223_372_036_854_775_808, "22003"),
    ("bigint", Decimal("-9.223372036854775809e18"), "22003"),
    ("bigint", Decimal("1e100000"), "22003"),
    ("bigint", "1e9999999999999999999999", "22003"),
    ("bigint", "9" * 5000, "22003"),
    ("integer", Decimal("1.5"), "22P02"),
    ("integer", Decimal("1e-16383"), "22P02"),
    ("integer", "1.000000000000000000000000000000000000000001", "22P02"),
    ("integer", "", "22P02"),
    ("integer", "abc", "22P02"),
    ("integer", "1_000", "22P02"),
    ("integer", "0x1F", "22P02"),
    ("integer", "\u0664", "22P02"),
    ("integer", True, "22P02"),
    ("integer", [1], "22P02"),
    ("numeric", "NaN", "22P02"),
    ("numeric", "Infinity", "22P02"),
    ("numeric", "1_000", "22P02"),
    ("numeric", "0x1F", "22P02"),
    ("numeric", "1,5", "22P02"),
    ("numeric", "", "22P02"),
    ("numeric", False, "22P02"),
    ("numeric", {}, "22P02"),
    ("numeric", Decimal("1e131072"), "22003"),
    ("numeric", Decimal("9" * 131_073), "22003"),
    ("numeric", Decimal("0e2000000000"), "22003"),
    ("numeric", "1e131072", "22003"),
    ("numeric", "1e-16384", "22003"),
    ("numeric", "0." + "0" * 16_383 + "1", "22003"),
    ("numeric", "1e9999999999999999999999", "22003"),
    ("double", "NaN", "22P02"),
    ("double", "-Infinity", "22P02"),
    ("double", "1e", "22P02"),
    ("double", True, "22P02"),
    ("double", Decimal("1.7976931348623159e308"), "22003"),
    ("double", 10**400, "22003"),
    ("double", "-1e309", "22003"),
    ("double", Decimal("2e-324"), "22003"),
    ("double", "1e-99999999999", "22003"),
    ("boolean", 1, "22P02"),
    ("boolean", 0, "22P02"),
    ("boolean", "yes", "22P02"),
    ("boolean", "TRUE", "22P02"),
    ("boolean", "", "22P02"),
    ("boolean", [True], "22P02"),
    ("uuid", "", "22P02"),
    ("uuid", "0f8fad5b-d9cb-469f-a165-70867728950", "22P02"),
    ("uuid", "0f8fad5b-d9cb-469f-a165-70867728950g", "22P02"),
    ("uuid", "0f8fad5bd9cb469fa16570867728950e", "22P02"),
    ("uuid", "{0f8fad5b-d9cb-469f-a165-70867728950e}", "22P02"),
    ("uuid", "0f8f-ad5b-d9cb-469f-a165-7086-7728-950e", "22P02"),
    ("uuid", " 0f8fad5b-d9cb-469f-a165-70867728950e", "22P02"),
    ("uuid", "0f8fad5b-d9cb-469f-a165-70867728950e\n", "22P02"),
    ("uuid", "\u0660f8fad5b-d9cb-469f-a165-70867728950e"[:36], "22P02"),
    ("uuid", 17, "22P02"),
    ("uuid", {}, "22P02"),
    ("date", "2025-13-01", "22008"),
    ("date", "2026-02-29", "22008"),
    ("date", "0000-01-01", "22008"),
    ("date", "2026-04-31", "22008"),
    ("date", "2026-1-1", "22007"),
    ("date", "20261121", "22007"),
    ("date", "9/11/14", "22007"),
    ("date", "now", "22007"),
    ("date", "infinity", "22007"),
    ("date", "", "22007"),
    ("date", 20261121, "22007"),
    ("time", "25:00", "22008"),
    ("time", "08:60", "22008"),
    ("time", "08:15:61", "22008"),
    ("time", "24:00:01", "22008"),
    ("time", "24:01", "22008"),
    ("time", "08:15:60.5", "22008"),
    ("time", "23:59:60.5", "22008"),
    ("time", "08:15Z", "22007"),
    ("time", "08:15:00+02:00", "22007"),
    ("time", "08:15 -03", "22007"),
    ("time", "8:15", "22007"),
    ("time", "0815", "22007"),
    ("time", "T08:15", "22007"),
    ("time", "08:15 PM", "22007"),
    ("time", "08:15:00.", "22007"),
    ("time", "08:15.5", "22007"),
    ("time", "now", "22007"),
    ("time", "allballs", "22007"),
    ("time", "", "22007"),
    ("time", "2026-11-21T08:15:00", "22007"),
    ("time", 815, "22007"),
    ("time", ["08:15"], "22007"),
    ("timestamptz", "2026-11-21T08:15:00", "22007"),
    ("timestamptz", "2026-11-21", "22007"),
    ("timestamptz", "now", "22007"),
    ("timestamptz", "infinity", "22007"),
    ("timestamptz", "9/11/14", "22007"),
    ("timestamptz", "", "22007"),
    ("timestamptz", 1_700_000_000, "22007"),
    ("timestamptz", "2026-11-21T10:15.5Z", "22007"),
    ("timestamptz", "0000-01-01T00:00:00Z", "22008"),
    ("timestamptz", "2025-13-01T00:00:00Z", "22008"),
    ("timestamptz", "2026-02-29T00:00:00Z", "22008"),
    ("timestamptz", "2026-11-21T25:00:00Z", "22008"),
    ("timestamptz", "2026-11-21T24:00:01Z", "22008"),
    ("timestamptz", "2026-11-21T24:01Z", "22008"),
    ("timestamptz", "2026-11-21T10:60:00Z", "22008"),
    ("timestamptz", "2026-11-21T10:00:61Z", "22008"),
    ("timestamptz", "2016-12-31T23:59:60.5Z", "22008"),
    ("timestamptz", "2026-11-21T10:00:00+16:00", "22009"),
    ("timestamptz", "2026-11-21T10:00:00-99", "22009"),
    ("timestamptz", "2026-11-21T10:00:00+05:60", "22009"),
    ("jsonb", "\x00", "22P05"),
    ("jsonb", {"\x00": 1}, "22P05"),
    ("jsonb", ["\\\x00"], "22P05"),
    ("jsonb", "\ud83d", "22P02"),
    ("jsonb", "\udc00\ud83d", "22P02"),
    ("jsonb", [Decimal("1e131072")], "22003"),
    ("jsonb", {"a": Decimal("1e-16384")}, "22003"),
    ("jsonb", Decimal("9" * 131_073), "22003"),
    ("jsonb", Decimal("0e2000000000"), "22003"),
]

# Casts for values that C5 accepts, but PostgreSQL's input of the type does not.

# Values of every kind: each type must decide about each of them, equally by both paths.
TOKENS = list(
    dict.fromkeys(
        [example for entry in TYPES.values() for example in entry.examples]
        + ["true", "false", "0", "-0", "-1.50", "1e2", "{}", "[]", "[[1]]", '"0"', '" 1 "', '"a"', '"now"', '"NaN"']
    )
)


def checked_text(column: Column, token: str) -> str | None:
    """Return the text that the checked path sends for a value, or None for a misfit."""
    try:
        return converter(column)(json.loads(token, parse_float=Decimal))
    except Misfit:
        return None


def fast_field(column: Column, token: str) -> Token | None:
    """Return the field that the fast path sends for a token, or None if it leaves the record to the checked path."""
    suspects: set[int] = set()
    [field] = acceptor(column)([token.encode()], suspects)
    return None if suspects else field
