"""Values that the conversions accept are stored by the server, values that they refuse are refused by it."""

import json
import math
import re
from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import Any, LiteralString, get_args

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from psycopg import sql

from etl.datasets import TYPES, Column, Dataset, Table, Type, ddl, sql_type
from etl.ingestion.transform.conversions import as_text, is_storable
from etl.ingestion.transform.types import converter
from etl.ingestion.values import Misfit
from tests.support.faults import Connection
from tests.support.values import MISFITS, TOKENS, VALUES, checked_text, fast_field

against_database = settings(
    deadline=None, derandomize=True, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _instant(text: str) -> Fraction:
    """Return the microseconds since 1970 of a time, by arithmetic alone."""
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
    """The database has the exact value."""
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
    """Return the SQLSTATE by which a converter refuses a value, or None."""
    try:
        convert(value)
    except Misfit as misfit:
        assert misfit.is_violation == (misfit.sqlstate == "23514")  # noqa: PT017 - it may also take the value
        return misfit.sqlstate
    return None


@pytest.mark.parametrize("kind", VALUES)
def test_an_accepted_value_is_stored_exactly(loader_session: Connection, kind: Type) -> None:
    """PostgreSQL takes an accepted value by COPY and returns it unchanged, times within rounding."""
    loader_session.execute(sql.SQL("create temporary table converted (id integer, value {})").format(sql_type(kind)))
    convert = converter(Column(type=kind))
    passed = 0

    @against_database
    @given(st.lists(VALUES[kind], min_size=5, max_size=40))
    def check(values: list[Any]) -> None:
        nonlocal passed
        fitting = [value for value in values if _sqlstate(convert, value) is None]
        with loader_session.transaction(force_rollback=True):
            with loader_session.cursor() as cursor, cursor.copy("copy converted from stdin") as copy:
                copy.write("".join(f"{number}\t{convert(value)}\n" for number, value in enumerate(fitting)))
            stored = loader_session.execute(READ.get(kind, "select value from converted order by id")).fetchall()
        assert len(stored) == len(fitting)
        for value, (found,) in zip(fitting, stored, strict=True):
            _assert_is(kind, value, found)
        passed += len(fitting)

    check()
    assert passed > 200


CASTS = {
    "smallint": "numeric::smallint",
    "integer": "numeric::integer",
    "bigint": "numeric::bigint",
    "double": "float8",
    "numeric": "numeric",
}


def test_misfits_that_postgresql_refuses_have_its_sqlstate(loader_session: Connection) -> None:
    """If PostgreSQL refuses a misfit as well, it does so with the same SQLSTATE."""
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
            loader_session.execute(sql.SQL("select %s::text::") + sql.SQL(CASTS.get(kind, kind)), [text])
        except psycopg.Error as error:
            agreed.append((kind, value, error.sqlstate, sqlstate))
    assert [each for each in agreed if each[2] != each[3]] == []
    assert len(agreed) > 40


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
    """Draw a column with checks, and values that satisfy or violate them."""
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


def test_checks_of_the_loader_are_the_checks_of_the_table(loader_session: Connection) -> None:
    """A value violates min, above, max, max_length or one_of exactly if the CHECK of the table refuses it."""
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
        with loader_session.transaction(force_rollback=True):
            for statement in ddl(dataset):
                loader_session.execute(statement)
            for value in values:
                if _sqlstate(plain, value) is None:
                    refused = _refuses(loader_session, column.type, value if column.type == "text" else plain(value))
                    assert (column, value, _sqlstate(checked, value)) == (column, value, "23514" if refused else None)
                    seen[refused] += 1

    check()
    assert min(seen.values()) > 30


def _refuses(connection: Connection, kind: str, text: str) -> bool:
    statement = sql.SQL("insert into logistics.checked values (%s::text::{}, 1, 1, 1)").format(sql_type(kind))
    try:
        with connection.transaction():
            connection.execute(statement, [text])
    except psycopg.errors.CheckViolation:
        return True
    return False


_COPY_TEXT = "copy stored from stdin"
_COPY_FIELDS = "copy stored from stdin (format csv, null 'null', escape '\\')"

NAMES: tuple[Type, ...] = get_args(Type)


@pytest.mark.parametrize("name", NAMES)
def test_both_paths_send_the_same_value(loader_session: Connection, name: Type) -> None:
    """A value that the fast path accepts is stored like that of the checked path, or refused like it."""
    column = Column(name="value", path="value", type=name)
    loader_session.execute(sql.SQL("create temporary table stored (value {})").format(sql_type(name)))
    accepted = []
    for token in TOKENS:
        field = fast_field(column, token)
        if field is not None:
            copied = _copied(loader_session, bytes(field) + b"\n", _COPY_FIELDS)
            text = checked_text(column, token)
            expected = None if text is None else _copied(loader_session, f"{text}\n".encode(), _COPY_TEXT)
            assert (token, copied) == (token, expected)
            accepted.append(token)
    assert set(accepted) & set(TYPES[name].examples)


def _copied(connection: Connection, line: bytes, statement: str) -> str | None:
    """Return the value that PostgreSQL stores of a line, or None if it refuses it."""
    try:
        with connection.transaction(force_rollback=True):
            with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
                copy.write(line)
            row = connection.execute("select value::text from stored").fetchone()
            assert row is not None
            return str(row[0])
    except psycopg.DataError:
        return None
