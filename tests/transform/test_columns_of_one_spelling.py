"""A whole column of tokens becomes the same fields as its tokens one by one."""

import re
from collections.abc import Callable, Sequence
from decimal import Decimal

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.datasets import Column
from etl.datasets.types import NumberType, TimeType
from etl.ingestion.framing.decoding import decode_one
from etl.ingestion.transform.acceptance import acceptor, group_of
from etl.ingestion.transform.members import getter
from etl.ingestion.transform.rules import Token
from etl.ingestion.transform.tokens import NULL
from etl.ingestion.transform.types import rules_of
from etl.ingestion.values import Fault, Misfit
from tests.support.definitions import Define
from tests.support.values import TOKENS as ANY

NUMBERS = ["5", "-7", "5.0", "5.00", "0.0", "-0", "-0.0", "1.5", "-0.25", "1e2", "12345678901", "1e400", "9" * 1100]
QUOTED = [f'"{number}"' for number in NUMBERS]
ODD_NUMBERS = [
    '"007"',
    '"+5"',
    '" 5"',
    '""',
    '"-"',
    '"1.0.0"',
    '"1-2"',
    '"1_000"',
    '"0x1F"',
    '"NaN"',
    '"null"',
    '"nu1ll"',
]

PLAIN = ['"a b"', '""', '"N/A"', '"null"', '"é"', '"éé éé"', '"{"', "17", "-0", "1.50", "-0.0", "1e5", "true"]
PLAIN += ["7" * 1001, '"' + "x" * 50 + '"', "{}", "[]"]
ESCAPED = [
    '"a\\nb"',
    '"N\\/A"',
    '"\\u00e9"',
    '"\\ud83d\\ude00"',
    '"\\\\"',
    '"\\""',
    '"\\u0022"',
    '"\\u001f"',
    '"\\u001fnull\\u001f"',
]
ESCAPED += ['"\\u0000"', '"\\ud83d"', '"\\\\u0000"']
ESCAPED += [
    '"\\u005cu0041"',
    '"\\u005c\\u0022"',
    '"\\u005cn"',
    '"\\/\\b\\f\\r\\t"',
    '"\\u00fc\\u00df\\ud83d\\ude00\\u00fc"',
    '"\\\\n"',
]
ESCAPED += [
    '"' + "".join(f"\\u04{number:02x}" for number in range(16, 80)) + '"',
    '"\\u005C\\u005c"',
    '"\\u000a\\u000A"',
]
PADDED = [
    '" a"',
    '"a  "',
    f'"{" " * 45}a{" " * 70}"',
    '"  "',
    '" N/A "',
    '"\u00a0a\u3000"',
    '"\\u0020a"',
    '"a\\n"',
    '"\\\\ "',
    '"é "',
]
PADDED += ['" 5 "', '"  5.0"', '"007 "']

DAYS = [
    '"2026-01-05"',
    '"2024-02-29"',
    '"2026-02-29"',
    '"0000-01-01"',
    '"2026-1-5"',
    '"5.1.2026"',
    '"05.01.2026"',
    '"31.02.2026"',
    '"31.12.0000"',
]
DAYS += [
    '"5.13.2026"',
    '"05.01.26"',
    '"5.1.69"',
    '"05.01.68"',
    '"29.02.00"',
    '"05-Jan-2026"',
    '"5-FEB-2026"',
    '"30-Feb-2026"',
    '"05-Foo-2026"',
]
DAYS += [
    "20260105",
    '"20260105"',
    "20261301",
    '"202615"',
    '" 5.01.2026"',
    '"05.01.2026 "',
    '"٠٥.01.2026"',
    '"05/01/2026"',
    "1767607200",
]
TIMES = [
    f'"2026-01-05{between}{time}{zone}"'
    for between in "T "
    for zone in ("", "Z", "+02:00", "-0330")
    for time in ("10:00:00", "23:59:59.5")
]
TIMES += [
    '"2026-01-05T24:00:00"',
    '"2026-01-05T24:00:01"',
    '"2026-01-05T25:00:00Z"',
    '"2026-01-05 23:59:60"',
    '"2026-01-05T23:59:60.5Z"',
]
TIMES += [
    '"2026-01-05T10:60:00"',
    '"2026-01-05T10:00"',
    '"2026-02-30T10:00:00"',
    '"2026-02-30T10:00:00Z"',
    '"2026-01-05T10:00:00.1234567Z"',
]
TIMES += ['"2025-10-26T02:30:00"', '"2025-03-30 02:30:00"', '"2026-05-01T10:00:00"', '"2026-13-05 10:00:00"']
LOCAL = [
    '"05.01.2026 10:30"',
    '"5.1.2026 7:05"',
    '"31.02.2025 10:30"',
    '"05.01.2026 24:00"',
    '"05.01.2026 23:60"',
    '"05.01.2026 20:59"',
    '"5.10.2026 23:05"',
]
LOCAL += [
    '"05/01/26 10:30:59"',
    '"05/01/69 10:30:60"',
    '"05/13/68 01:30:05"',
    '"20260105103059.123456"',
    '"20260105 103059.5"',
    '"Jan 05 2026 10:30"',
]
LOCAL += [
    '"may 5 2026 9:03"',
    '"05.01.2026  10:30"',
    '"05.01.2026T10:30"',
    '"2026-17-03 10:30:00"',
    '"2026-01-05 10:30:00"',
    '"05.01.2026 7:05 AM"',
]
EPOCHS = [
    "1767607200",
    "0",
    "5",
    "-5",
    "86400",
    "99999999999",
    "999999999999",
    "1767607200123",
    "253402300800",
    "1767607200.5",
    "1767607200.1234565",
]
EPOCHS += ["1e9", "1e30", "1767607200000.123", "123", "1234", "12345678901234567890"]
TEXT_EPOCHS = [f'"{number}"' for number in EPOCHS] + [
    '" 1767607200 "',
    '"+5"',
    '"0001767607200"',
    '"1767607200."',
    '"1_000"',
    '"1767607200 0"',
]
CLOCKS = [
    '"08:15"',
    '"08:15:30"',
    '"23:59:59.123456"',
    '"24:00"',
    '"24:00:01"',
    '"25:00:00"',
    '"08:60:00"',
    '"08:15:60"',
    '"08:15:60.5"',
    '"8:15"',
]
CLOCKS += [
    '"08.15"',
    '"8.5"',
    '"24.00"',
    '"20.59"',
    '"08:15Z"',
    '"08:15 AM"',
    "815",
    "8.15",
    "1767607200",
    "1767607200.25",
]

COLUMNS = {
    'type = "smallint"': [NUMBERS, QUOTED],
    'type = "integer", min = 0': [NUMBERS, QUOTED],
    'type = "bigint", exact = true': [NUMBERS, QUOTED],
    'type = "numeric"': [NUMBERS, QUOTED],
    'type = "numeric", above = "-0.25", max = 100': [NUMBERS, QUOTED],
    'type = "numeric", above = 0': [NUMBERS, QUOTED],
    'type = "bigint", min = -5, max = 12345678901': [NUMBERS, QUOTED],
    'type = "double", min = "-0.25"': [NUMBERS, QUOTED],
    'type = "text"': [PLAIN, ESCAPED, PADDED],
    'type = "text", max_length = 4': [PLAIN, ESCAPED, PADDED],
    'type = "text", one_of = ["a b", "17", "é", "a\\nb"]': [PLAIN, ESCAPED],
    'type = "text", required = true, null_if = ["N/A", "", "é", "a\\nb", 17, 1.5, 0, -100000]': [PLAIN, ESCAPED],
    'type = "text", default = "é \\"b\\"", null_if = [""]': [PLAIN, ESCAPED],
    'type = "text", trim = true, max_length = 5': [PLAIN, ESCAPED, PADDED],
    'type = "text", trim = true, null_if = ["N/A", ""], default = "none"': [PLAIN, ESCAPED, PADDED],
    'type = "numeric", null_if = ["", "N/A", 0, -0.25, 100]': [NUMBERS, QUOTED, ['""', "5", '"5"', "1e2", "-0.250"]],
    'type = "integer", trim = true, default = 7': [NUMBERS, QUOTED, PADDED],
    'type = "boolean"': [["true", "false"], ['"true"', '"false"']],
    'type = "date"': [DAYS, TIMES],
    'type = "date", formats = ["%d.%m.%Y", "%d-%b-%Y", "%d.%m.%y", "epoch"]': [DAYS, EPOCHS, TEXT_EPOCHS],
    'type = "date", formats = ["%Y%m%d", "epoch", "%d.%m.%Y %H:%M"]': [DAYS, LOCAL, EPOCHS],
    'type = "timestamp"': [TIMES],
    'type = "timestamp", formats = ["epoch", "%d.%m.%Y %H:%M", "%d.%m.%Y"]': [TIMES, LOCAL, DAYS, EPOCHS, TEXT_EPOCHS],
    'type = "timestamptz"': [TIMES],
    'type = "timestamptz", null_if = ["05.01.2026"], timezone = "Europe/Berlin"': [TIMES, LOCAL],
    'type = "timestamptz", timezone = "UTC", formats = ["%d.%m.%Y %H:%M", "%d/%m/%y %H:%M:%S", "%Y%m%d%H%M%S.%f"]': [
        TIMES,
        LOCAL,
    ],
    'type = "timestamptz", timezone = "UTC", formats = ["%b %d %Y %H:%M", "%Y%m%d %H%M%S.%f", "%Y-%d-%m %H:%M:%S"]': [
        TIMES,
        LOCAL,
    ],
    'type = "timestamptz", formats = ["epoch_ms"]': [EPOCHS, TEXT_EPOCHS, TIMES],
    'type = "timestamptz", timezone = "UTC", formats = ["epoch", "epoch_ms", "%Y%m%d"]': [EPOCHS, TEXT_EPOCHS, DAYS],
    'type = "time"': [CLOCKS],
    'type = "time", formats = ["%H.%M", "%d.%m.%Y %H:%M", "%H%M", "epoch", "%I:%M %p"]': [CLOCKS, LOCAL, EPOCHS],
    'type = "time", min = "08:15", formats = ["%H.%M"]': [CLOCKS],
    'type = "uuid", null_if = ["N/A"]': [['"0f8fad5b-d9cb-469f-a165-70867728950e"', '"N/A"']],
}
"""Columns, each with lists of tokens that may fill one whole column."""


_WRITTEN = re.compile(r"\\(.)", re.DOTALL)
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d)?[T ]?(\d\d:\d\d(?::\d\d)?)?(?:\.(\d+))?(.*)")
_COPY_ESCAPES = {"t": "\t", "n": "\n", "r": "\r"}


def _checked(column: Column, token: bytes) -> tuple[str | None, bool] | str:
    """Return the text that the checked path stores for a token and whether it counts it as changed, or the SQLSTATE."""
    record = decode_one(b'{"c":%b}' % token)
    if isinstance(record, Fault):
        return record.sqlstate
    try:
        value = getter(column)(record, None, 1)
        if value is None:
            return None, False
        rules = rules_of(column)
        text = _WRITTEN.sub(lambda match: _COPY_ESCAPES.get(match[1], match[1]), rules.convert(value))
    except Misfit as misfit:
        return misfit.sqlstate
    is_kept = rules.keeps is None or type(value) is not str or bool(rules.keeps(value))
    return text, not is_kept


def _stored(field: bytes) -> str | None:
    """Return the text that the server reads in a field of CSV."""
    if field[:1] == b'"':
        return _WRITTEN.sub(r"\1", field[1:-1].decode())
    return None if field == b"null" else field.decode()


def _accepted(column: Column, tokens: Sequence[Token]) -> list[tuple[bytes | None, bool]]:
    """Return for each token its field, None for a suspect, and whether its text is counted as changed."""
    suspects: set[int] = set()
    rules = rules_of(column)
    fields = acceptor(column)(tokens, suspects)
    changed = set(rules.changed(tokens)) if rules.changed else set()
    assert len(fields) == len(tokens)
    return [
        (None, False) if place in suspects else (bytes(field), place in changed) for place, field in enumerate(fields)
    ]


@pytest.mark.parametrize("examples", [10, pytest.param(1000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("options", COLUMNS)
def test_a_column_is_accepted_like_each_of_its_tokens(define: Define, options: str, examples: int) -> None:
    """The check of a whole column returns the fields, suspects and changed texts that it returns for single tokens."""
    [column] = (
        define(f'name = "parcels"\n[[table]]\nname = "a.b"\ncolumns = {{ c = {{ {options} }} }}').tables[0].columns
    )

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
    @given(st.sampled_from(COLUMNS[options]).flatmap(_tokens), st.booleans())
    def compare(tokens: list[bytes], is_grouped: bool) -> None:
        single = [_accepted(column, [token])[0] for token in tokens]
        assert _accepted(column, tokens) == single
        for token, (own, is_changed) in zip(tokens, single, strict=True):
            checked = _checked(column, token)
            # The server refuses a number beyond the range of its type.
            if own is not None and checked != "22003":
                assert not isinstance(checked, str), token
                assert (_value(column, _stored(own)), is_changed) == (_value(column, checked[0]), checked[1]), token
        group = group_of(column, is_guarded=True)
        if is_grouped and group and (accepted := group.accept(tokens, 1)) is not None:
            fields, odd = accepted
            for place, (field, (own, is_changed)) in enumerate(zip(fields, single, strict=True)):
                # The server refuses what only a column alone refuses, such as a number beyond the range of its type.
                assert place in odd or own is None or (bytes(field), False) == (own, is_changed)

    compare()


def _value(column: Column, text: str | None) -> object:
    """Return a text as the type of its column compares it."""
    if text and isinstance(column.column_type, TimeType):
        day, clock, fraction, zone = _MOMENT.fullmatch(text).groups(default="")  # type: ignore[union-attr] # a time
        clock = f"{clock}:00"[:8] if clock else "00:00:00"
        return day, clock, fraction.rstrip("0"), {"Z": "+00:00", "": "+00:00"}.get(zone.strip(), zone)
    if text is None or isinstance(column.column_type, NumberType):
        return text and (float(text) if column.type == "double" else Decimal(text))
    return text[0] if column.type == "boolean" else text


def _tokens(likely: list[str]) -> st.SearchStrategy[list[bytes]]:
    """Draw the tokens of a column: nearly all are some of the likely ones."""
    chosen = st.lists(st.sampled_from(likely), min_size=1, max_size=3)
    odd = st.sampled_from(["null", *ODD_NUMBERS, *ANY])
    tokens = st.tuples(chosen, st.integers(1, 12)).map(lambda drawn: drawn[0] * drawn[1])
    mixed = st.tuples(tokens, st.lists(st.tuples(st.integers(0, 40), odd), max_size=3)).map(_with_odd)
    return mixed.map(lambda texts: [text.encode() for text in texts])


def _with_odd(drawn: tuple[list[str], list[tuple[int, str]]]) -> list[str]:
    tokens, odd = drawn
    for place, token in odd:
        tokens.insert(place % (len(tokens) + 1), token)
    return tokens


@pytest.mark.parametrize("as_given", [bytes, msgspec.Raw])
def test_a_text_that_means_null_is_found_after_a_missing_value(
    define: Define, as_given: Callable[[bytes], Token]
) -> None:
    """Each of several texts that mean null is replaced, also where a column begins with a missing value."""
    options = '{ type = "text", null_if = ["N/A", "-"] }'
    [column] = define(f'name = "parcels"\n[[table]]\nname = "a.b"\ncolumns = {{ c = {options} }}').tables[0].columns
    texts = [b'"N/A"', b'"-"', b'"N/A "', b'"N/A"', b"null", b'"a"']
    fields = acceptor(column)([NULL, *map(as_given, texts)], set())
    assert [bytes(field) for field in fields] == [b"null"] * 3 + [b'"N/A "'] + [b"null"] * 2 + [b'"a"']
