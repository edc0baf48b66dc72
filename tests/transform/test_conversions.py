import json
import math
import re
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, LiteralString

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from etl.database.connecting import Database, connect
from etl.datasets import Column, Dataset, Table, Type, ddl, sql_type
from etl.ingestion.transform.conversions import as_text, is_storable
from etl.ingestion.transform.structures import json_text
from etl.ingestion.transform.types import converter
from etl.ingestion.values import Misfit
from tests.support.faults import Connection

against_database = settings(
    deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# Where the types of PostgreSQL end, and what is near.
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
    lambda before, number, behind: f"{before}{number}{behind}",
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
    """Return two digits of a field, here and there such as do not exist."""
    fields = st.sampled_from(odd) if odd else st.nothing()
    numbers = st.integers(0, 9).flatmap(lambda chance: fields if odd and chance == 0 else st.integers(low, high))
    return numbers.map("{:02}".format)


@st.composite
def times(draw: st.DrawFn) -> str:
    """Draw a time with a zone as people write it, here and there with a field that does not exist."""
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


@pytest.fixture
def connection(postgresql: Connection) -> Iterator[Connection]:
    """Give a connection with the session settings of the loader."""
    with connect(Database(conninfo=postgresql.info.dsn)) as connection:
        yield connection


def _instant(text: str) -> Fraction:
    """Return the microseconds since 1970 that a time means, by arithmetic alone."""
    match = re.fullmatch(
        r"(\d+)-(\d\d)-(\d\d)[T ](\d\d):(\d\d)(?::(\d\d(?:\.\d+)?))? ?(?:Z|([+-])(\d\d):?(\d\d)?)", text
    )
    assert match
    year, month, day, hour, minute, second, sign, zone_hour, zone_minute = match.groups(default="0")
    days = (date(int(year), int(month), int(day)) - date(1970, 1, 1)) // timedelta(days=1)
    zone = int(zone_hour) * 3600 + int(zone_minute) * 60
    seconds = ((days * 24 + int(hour)) * 60 + int(minute)) * 60 + Fraction(second)
    return (seconds + (zone if sign == "-" else -zone)) * 1_000_000


def _assert_is(kind: str, value: Any, stored: Any) -> None:
    """What stands in the database is the very value."""
    if kind == "text":
        assert stored == as_text(value)
        if not isinstance(value, str | bool):
            assert Decimal(stored) == value
    elif kind == "boolean":
        assert stored is (value in (True, "true"))
    elif kind == "uuid":
        assert str(stored) == value.lower()
    elif kind == "date":
        assert stored == value
    elif kind == "time":
        assert abs(Fraction(stored) - _instant(f"1970-01-01T{value}Z")) <= Fraction(1, 2)
    elif kind == "timestamptz":
        assert abs(Fraction(stored) - _instant(value)) <= Fraction(1, 2)
    elif kind == "jsonb":
        assert json.loads(stored, parse_float=Decimal, parse_int=Decimal) == value
    else:
        number = Decimal(value.strip()) if isinstance(value, str) else Decimal(value)
        assert stored == (float(number) if kind == "double" else number)
        if kind == "double":
            assert math.copysign(1, stored) == math.copysign(1, number)


READ: dict[str, LiteralString] = {
    "date": "select value::text from converted order by id",
    "timestamptz": "select extract(epoch from value) * 1000000 from converted order by id",
    "time": "select extract(epoch from value) * 1000000 from converted order by id",
    "jsonb": "select value::text from converted order by id",
}


def _sqlstate(convert: Callable[[Any], str], value: Any) -> str | None:
    """Return why a converter refuses a value, None where it does not."""
    try:
        convert(value)
    except Misfit as misfit:
        assert misfit.is_violation == (misfit.sqlstate == "23514")  # noqa: PT017 - it may also take the value
        return misfit.sqlstate
    return None


@pytest.mark.parametrize("kind", VALUES)
def test_what_fits_is_stored_as_the_very_value(connection: Connection, kind: Type) -> None:
    """Whatever a converter lets pass PostgreSQL takes by COPY and gives back unchanged, times within rounding."""
    connection.execute(sql.SQL("create temporary table converted (id integer, value {})").format(sql_type(kind)))
    convert = converter(Column(type=kind))
    passed = 0

    @against_database
    @given(st.lists(VALUES[kind], min_size=5, max_size=40))
    def check(values: list[Any]) -> None:
        nonlocal passed
        fitting = [value for value in values if _sqlstate(convert, value) is None]
        with connection.transaction(force_rollback=True):
            with connection.cursor() as cursor, cursor.copy("copy converted from stdin") as copy:
                copy.write("".join(f"{number}\t{convert(value)}\n" for number, value in enumerate(fitting)))
            stored = connection.execute(READ.get(kind, "select value from converted order by id")).fetchall()
        assert len(stored) == len(fitting)
        for value, (found,) in zip(fitting, stored, strict=True):
            _assert_is(kind, value, found)
        passed += len(fitting)

    check()
    assert passed > 200


# (type, value, SQLSTATE): what C5 calls a misfit, also where PostgreSQL would take it.
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

# The casts by which PostgreSQL takes what C5 takes, where that is more than its input of the type does.
CASTS = {
    "smallint": "numeric::smallint",
    "integer": "numeric::integer",
    "bigint": "numeric::bigint",
    "double": "float8",
    "numeric": "numeric",
}


@pytest.mark.parametrize(("kind", "value", "sqlstate"), MISFITS, ids=[f"{n}-{fit[0]}" for n, fit in enumerate(MISFITS)])
def test_a_misfit_tells_its_sqlstate(kind: Type, value: Any, sqlstate: str) -> None:
    """What does not fit is refused with the SQLSTATE of the contract, in a short sentence."""
    with pytest.raises(Misfit) as caught:
        converter(Column(type=kind))(value)
    assert caught.value.sqlstate == sqlstate
    assert not caught.value.is_violation
    assert len(caught.value.reason) < 120


def test_misfits_that_postgresql_refuses_have_its_sqlstate(connection: Connection) -> None:
    """Where PostgreSQL refuses the value as well, it does so with the same SQLSTATE."""
    agreed = []
    for kind, value, sqlstate in MISFITS:
        if kind == "jsonb" and not isinstance(value, str):
            text = msgspec.json.Encoder(decimal_format="number").encode(value).decode()
        else:
            text = json.dumps(value) if kind == "jsonb" else str(value)
        is_text = kind == "jsonb" or isinstance(value, str) or (kind in CASTS and not isinstance(value, bool | list))
        if not is_text or not is_storable(text):
            continue  # PostgreSQL knows no such cast, or the value cannot be sent.
        try:
            connection.execute(sql.SQL("select %s::text::") + sql.SQL(CASTS.get(kind, kind)), [text])
        except psycopg.Error as error:
            agreed.append((kind, value, error.sqlstate, sqlstate))
    assert [each for each in agreed if each[2] != each[3]] == []
    assert len(agreed) > 40


# (type, value, what is sent): spellings that fit.
FITTING: list[tuple[Type, Any, str]] = [
    ("text", "", ""),
    ("text", "\\N", "\\\\N"),
    ("text", "\\.", "\\\\."),
    ("text", "a\tb\nc\rd", "a\\tb\\nc\\rd"),
    ("text", True, "true"),
    ("text", 10**40, "1" + "0" * 40),
    ("text", Decimal("1.50"), "1.50"),
    ("text", Decimal("8e2"), "800"),
    ("text", Decimal("1e-7"), "0.0000001"),
    ("text", Decimal("0e5"), "0"),
    ("integer", Decimal("800.0"), "800"),
    ("integer", Decimal("8e2"), "800"),
    ("integer", "42", "42"),
    ("integer", " +42.0\n", "42"),
    ("integer", Decimal("0e100000"), "0"),
    ("integer", Decimal("-0.0"), "0"),
    ("numeric", Decimal("0.10"), "0.10"),
    ("numeric", " 1.5 ", "1.5"),
    ("numeric", ".5", "0.5"),
    ("numeric", 10**40, "1" + "0" * 40),
    ("double", Decimal("0.1"), "0.1"),
    ("double", Decimal("5e-324"), "5e-324"),
    ("boolean", True, "t"),
    ("boolean", "false", "f"),
    ("uuid", "0f8fad5b-d9cb-469f-a165-70867728950e", "0f8fad5b-d9cb-469f-a165-70867728950e"),
    ("uuid", "0F8FAD5B-d9cb-469f-A165-70867728950E", "0F8FAD5B-d9cb-469f-A165-70867728950E"),
    ("date", "2024-02-29", "2024-02-29"),
    ("time", "08:15", "08:15"),
    ("time", "08:15:30.1234567", "08:15:30.1234567"),
    ("time", "08:15:30." + "1" * 200, "08:15:30." + "1" * 15),
    ("time", "24:00:00.000", "24:00:00.000"),
    ("time", "23:59:60", "23:59:60"),
    ("timestamptz", "2026-11-21T08:15:00.1234567Z", "2026-11-21T08:15:00.1234567Z"),
    ("timestamptz", "2026-11-21T08:15:00." + "1" * 200 + "+0530", "2026-11-21T08:15:00." + "1" * 15 + "+0530"),
    ("timestamptz", "2016-12-31T23:59:60Z", "2016-12-31T23:59:60Z"),
    ("timestamptz", "2026-11-21 24:00+15:59", "2026-11-21 24:00+15:59"),
    (
        "jsonb",
        {"a": [None, True, 10**40, Decimal("1.50"), "\\"]},
        '{"a":[null,true,1' + "0" * 40 + ',1.50,"\\\\\\\\"]}',
    ),
    ("jsonb", "E+E-\\u0000", '"E+E-\\\\\\\\u0000"'),
]


@pytest.mark.parametrize(("kind", "value", "text"), FITTING, ids=[f"{n}-{fit[0]}" for n, fit in enumerate(FITTING)])
def test_what_fits_is_sent_so(kind: Type, value: Any, text: str) -> None:
    """Each spelling that fits becomes this text of COPY."""
    assert converter(Column(type=kind))(value) == text


BOUNDS = st.integers(-3, 3) | st.sampled_from(["0.1", "-0.5", "2.50", 0.1, 1.5, "1000000000000000000000000000001"])
NEAR = (
    st.integers(-4, 4)
    | st.decimals(-3, 3, places=2)
    | st.sampled_from(
        [
            Decimal("0.09999999999999999999"),
            Decimal("0.1"),
            Decimal("0.10000000000000000001"),
            10**30 + 1,
            10**30 + 2,
            Decimal("-0.0"),
        ]
    )
)


CLOCK_BOUNDS = st.sampled_from(["00:00", "08:15", "08:15:00.5", "08:15:00.000001", "23:59:59", "24:00"])
NEAR_CLOCKS = st.sampled_from(
    [
        *("00:00", "07:59:60", "08:14:59.9999995", "08:15", "08:15:00.0000005", "08:15:00.0000015", "08:15:00.4999996"),
        *("08:15:00.5", "08:15:00.50000049", "22:00:00.0", "23:59:59.9999994", "23:59:59.9999996", "23:59:60", "24:00"),
    ]
)
NUMBER_TYPES: list[Type] = ["smallint", "integer", "bigint", "numeric", "double"]


def _column(options: dict[str, Any]) -> Column:
    return Column(name="value", path="value", **options)


@st.composite
def bounded(draw: st.DrawFn) -> tuple[Column, list[Any]]:
    """Draw a column with checks, and values that keep or break them."""
    if draw(st.booleans()):
        one_of = st.just(("", "a", "'\\", "\U0001f69a\u0301", "%s"))
        options = draw(st.fixed_dictionaries({}, optional={"max_length": st.integers(1, 3), "one_of": one_of}))
        texts = st.text("a'\\\U0001f69a\u0301%s", max_size=5)
        return _column(options | {"type": "text"}), draw(st.lists(texts, max_size=12))
    if draw(st.booleans()):
        options = draw(
            st.fixed_dictionaries({}, optional={"min": CLOCK_BOUNDS, "above": CLOCK_BOUNDS, "max": CLOCK_BOUNDS})
        )
        return _column(options | {"type": "time"}), draw(st.lists(NEAR_CLOCKS, max_size=12))
    options = draw(st.fixed_dictionaries({}, optional={"min": BOUNDS, "above": BOUNDS, "max": BOUNDS}))
    return _column(options | {"type": draw(st.sampled_from(NUMBER_TYPES))}), draw(st.lists(NEAR, max_size=12))


def test_checks_of_the_loader_are_the_checks_of_the_table(connection: Connection) -> None:
    """A value breaks min, above, max, max_length or one_of here exactly when the CHECK of the table refuses it."""
    seen = {True: 0, False: 0}

    @settings(against_database, max_examples=60)
    @given(bounded())
    @example(
        (
            _column({"type": "double", "min": "0.1"}),
            [Decimal("0.1"), Decimal("0.0999"), Decimal("0.09999999999999999999")],
        )
    )
    def check(drawn: tuple[Column, list[Any]]) -> None:
        column, values = drawn
        table = Table(name="logistics.checked", columns=(column,))
        dataset = Dataset(name="x", records="item", mode="append", key=(), newest_by=None, tables=(table,), path="")
        plain, checked = converter(Column(type=column.type)), converter(column)
        with connection.transaction(force_rollback=True):
            for statement in ddl(dataset):
                connection.execute(statement)
            for value in values:
                if _sqlstate(plain, value) is None:
                    refused = _refuses(connection, column.type, value if column.type == "text" else plain(value))
                    assert (column, value, _sqlstate(checked, value)) == (column, value, "23514" if refused else None)
                    seen[refused] += 1

    check()
    assert min(seen.values()) > 30


def _refuses(connection: Connection, kind: Type, text: str) -> bool:
    statement = sql.SQL("insert into logistics.checked values (%s::text::{}, 1, 1, 1)").format(sql_type(kind))
    try:
        with connection.transaction():
            connection.execute(statement, [text])
    except psycopg.errors.CheckViolation:
        return True
    return False


@pytest.mark.parametrize(
    ("options", "value", "reason"),
    [
        ({"type": "numeric", "min": "0.10"}, Decimal("0.09"), "expected 0.10 or more"),
        ({"type": "integer", "above": 0}, 0, "expected more than 0"),
        ({"type": "double", "max": 1.5}, 2, "expected 1.5 or less"),
        ({"type": "time", "min": "08:00"}, "07:59:59.9999994", "expected 08:00 or more"),
        ({"type": "time", "above": "08:00"}, "08:00:00.0000004", "expected more than 08:00"),
        ({"type": "time", "max": "22:00"}, "24:00", "expected 22:00 or less"),
        ({"type": "text", "max_length": 2}, "abc", "expected at most 2 characters, got 3"),
        ({"type": "text", "one_of": ("a", "b")}, "c", "expected one of a, b, got something else"),
    ],
)
def test_a_check_tells_what_it_expects(options: dict[str, Any], value: Any, reason: str) -> None:
    """A broken check is told by what the definition says, never by the value."""
    with pytest.raises(Misfit) as caught:
        converter(Column(**options))(value)
    assert (caught.value.sqlstate, caught.value.reason) == ("23514", reason)


def test_any_value_as_text() -> None:
    """A misfit is kept as text: scalars as they are written, objects and arrays as JSON."""
    assert [json_text(value) for value in ("a", True, Decimal("1e3"), 5)] == ["a", "true", "1000", "5"]
    assert json_text({"a": [1, None]}) == '{"a":[1,null]}'
    for value in ({"a": "\x00"}, ["\ud83d"], Decimal("1e200000")):
        with pytest.raises(Misfit):
            json_text(value)
