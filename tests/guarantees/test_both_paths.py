"""The two paths give the same rows and the same rejected records, for single values and for random documents."""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, LiteralString
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg import sql
from structlog.testing import capture_logs

from etl.ingestion.constants import MAX_NESTING
from etl.ingestion.framing import decoding, partial, piece_builder, window
from etl.ingestion.transform import fastpath, lines
from etl.ingestion.transform.extras import Extras
from etl.ingestion.transform.projection import Projection
from etl.settings import Decoder
from tests.support.site import Site

COLUMNS = {
    "words": '"text"',
    "short": '{ type = "text", max_length = 5 }',
    "word": '{ type = "text", one_of = ["a", "b/c", "\\"", "é"] }',
    "small": '"smallint"',
    "whole": '{ type = "integer", min = -3, max = 100 }',
    "big": '"bigint"',
    "exact": '"numeric"',
    "weight": '{ type = "numeric", above = 0 }',
    "volume": '{ type = "numeric", min = 0 }',
    "share": '{ type = "numeric", min = "-0.5", max = "0.5" }',
    "near": '"double"',
    "bounded": '{ type = "double", above = "0.1", max = 1000 }',
    "yes": '"boolean"',
    "day": '"date"',
    "at": '"timestamptz"',
    "doc": '"jsonb"',
    "deep": '{ path = "o.p.q", type = "text" }',
    "deeper": '{ path = "o.n", type = "integer" }',
    "none_text": '{ type = "text", null_if = ["N/A", ""] }',
    "none_number": '{ type = "numeric", null_if = [0, -1.5] }',
    "none_quoted": '{ type = "numeric", null_if = ["", "N/A", 5], trim = true }',
    "moved": '{ type = "numeric", misfits_to = "note" }',
    "moved_at": '{ type = "timestamptz", misfits_to = "late" }',
    "needed": '{ type = "integer", required = true }',
    "local": '"timestamp"',
    "zoned": '{ type = "timestamptz", timezone = "Europe/Berlin" }',
    "written": '{ type = "date", formats = ["%d.%m.%Y", "%d/%m/%y", "epoch"] }',
    "stamped": '{ type = "timestamptz", timezone = "UTC", formats = ["epoch_ms", "%d.%m.%Y %H:%M"] }',
    "trimmed": '{ type = "text", trim = true, null_if = ["N/A", ""], max_length = 5 }',
    "trimmed_day": '{ type = "date", trim = true, default = "2026-01-01" }',
    "filled": '{ type = "text", default = "a \\"b\\"", null_if = ["null"], required = true }',
    "filled_number": '{ type = "integer", default = 7, min = 0 }',
    "tags": '"text[]"',
    "number": '"uuid"',
    "other_number": '{ type = "uuid", null_if = ["N/A"], trim = true }',
    "filled_uuid": '{ type = "uuid", default = "0F8FAD5B-d9cb-469f-a165-70867728950e" }',
    "clock": '"time"',
    "opened": '{ type = "time", min = "08:15:00.5", max = "22:00" }',
    "closed": '{ type = "time", above = "08:15", formats = ["%I:%M %p", "%H.%M", "epoch"] }',
    "other_clock": '{ type = "time", null_if = ["24:00"], default = "06:30", trim = true }',
    "moved_clock": '{ type = "time", misfits_to = "spoiled_clock" }',
    "moved_uuid": '{ type = "uuid", misfits_to = "spoiled" }',
    "comma": '{ type = "numeric", decimal = ",", misfits_to = "spoiled_comma" }',
    "flag": '{ type = "boolean", true = ["a", 1], false = ["N/A", 0] }',
    "nothing": '{ type = "numeric", null_if = [false, [], ""] }',
    "held": '{ type = "jsonb", json = true }',
    "held_number": '{ type = "integer", json = true, max = 100 }',
    "mongo": '{ type = "timestamptz", unwrap = "mongo" }',
    "dynamo": '{ type = "text", unwrap = "dynamodb", max_length = 5 }',
    "serial": '{ type = "date", formats = ["excel", "aspnet"] }',
    "quoted": """{ path = '"a.b"."#"', type = "text" }""",
    "odd": '{ path = "a b-ü", type = "text" }',
}

DEFINITION = f"""
name = "mixed"
[[table]]
name = "lab.mixed"
[table.columns]
id = {{ type = "text", required = true }}
feed = {{ value = "a \\"feed\\"", type = "text" }}
note = "text"
late = "text"
spoiled = "text"
spoiled_clock = "text"
spoiled_comma = "text"
{chr(10).join(f"{name} = {options}" for name, options in COLUMNS.items())}
[[table]]
name = "lab.mixed_items"
each = "items"
[table.columns]
id = {{ path = "^.id", type = "text" }}
line_no = {{ path = "#", type = "integer" }}
sku = {{ type = "text", required = true, max_length = 4 }}
quantity = {{ type = "integer", min = 0 }}
size = {{ path = "size.cm", type = "numeric" }}
outer = {{ path = "^.o.n", type = "integer" }}
"""

MEMBERS = {"deep": ["o", "p", "q"], "deeper": ["o", "n"], "odd": ["a b-ü"], "quoted": ["a.b", "#"]}

TOKENS = [
    *(
        '"1.234,5"',
        '"1,5"',
        '"1 234"',
        '"/Date(1351534600660+0000)/"',
        '"\\/Date(1351534600660)\\/"',
        "45292.5",
        "61",
        "60",
    ),
    *(
        '{"$date":1427144809506}',
        '{"$date":{"$numberLong":"5"}}',
        '{"$oid":"65aa"}',
        '{"S":"abc"}',
        '{"N":"1"}',
        '{"NULL":true}',
    ),
    *('"{\\"a\\": 1.50}"', '"null"', '"[7]"', '{"S":"abcdef"}', '{"S":"\\\\n"}'),
    *("null", "true", "false", "{}", "[]", "[[]]", '{"a":1}', '{"x": [1, {"y": null}]}', '[{"id":1},{"id":2}]'),
    *(
        "0",
        "-0",
        "0.0",
        "-0.0",
        "1",
        "-1",
        "7",
        "-7",
        "42",
        "100",
        "101",
        "800.0",
        "8e2",
        "8E+2",
        "1.50",
        "-1.5",
        "1e-7",
    ),
    *("0.5", "0.50000000000000000001", "-0.5", "0.1", "0.1000000000000000000001", "0.09999999999999999999999", "1000"),
    *("32767", "32768", "-32768", "2147483647", "2147483648", "9223372036854775807", "9223372036854775808"),
    *("999999999999999999", "123456789012345678901234567890.123456789", "1e400", "1e-400", "-1e-400", "1e200000"),
    *(
        '"007"',
        '"+5"',
        '"1e2"',
        '"-0"',
        '"-0.0"',
        '"5."',
        '".5"',
        '"0.50"',
        '" 5"',
        '"42"',
        '"-7"',
        '"0007.50"',
        '"005e-1"',
    ),
    *("1e1000000000000000000", "9" * 5000, "0." + "1" * 400, "1e5", "12345678901234567"),
    *(
        '""',
        '"a"',
        '"b/c"',
        '"b\\/c"',
        '"\\""',
        '"é"',
        '"\\u00e9"',
        '"\\u0061"',
        '"N/A"',
        '"N\\/A"',
        '"abcde"',
        '"abcdef"',
    ),
    *(
        '"ééééé"',
        '"éééééé"',
        '"\\u00e9\\u00e9\\u00e9\\u00e9\\u00e9"',
        '"null"',
        '"\\\\N"',
        '"\\\\."',
        '"."',
        '"\\\\"',
        '"true"',
    ),
    *(
        '"a\\nb"',
        '"\\n\\\\.\\n"',
        '"a\\r\\nb"',
        '"\\t"',
        '"\\b\\f"',
        '"\\u001f"',
        '"\\u007f"',
        '"\\u0000"',
        '"a\\u0000b"',
    ),
    *(
        '"\\ud83d\\ude00"',
        '"😀"',
        '"\\ud83d"',
        '"\\ude00\\ud83d"',
        '"\\\\u0000"',
        '"\\\\ud800"',
        '"},{\\"id\\":1"',
        '"{"',
        '"["',
    ),
    *(
        '"\\u0022\\u005c"',
        '"a,b;c|d"',
        '"  a  "',
        '"\u2028"',
        '"x\u0085y"',
        "1.0E+2",
        '"now"',
        '"infinity"',
        '"NaN"',
        '"nan"',
    ),
    *(
        '"inf"',
        '"42"',
        '" 42 "',
        '"+42"',
        '"-42"',
        '"0042"',
        '"4.2"',
        '".5"',
        '"5."',
        '"1_000"',
        '"0x1F"',
        '"0b1"',
        '"1e2"',
    ),
    *(
        '"12,5"',
        '"-0"',
        '"0"',
        '"1e400"',
        '"t"',
        '"yes"',
        '"on"',
        '"1"',
        '"FALSE"',
        '"true "',
        "20260105",
        '"20260105"',
    ),
    *('"2026-01-05"', '"2026-1-5"', '"2026-02-29"', '"2024-02-29"', '"2026-02-30"', '"2026-13-01"', '"0000-01-01"'),
    *('"9/11/14"', '"Jan 5 2026"', '"2026-01-05T10:00:00Z"', '"2026-01-05 10:00:00Z"', '"2026-01-05T10:00:00z"'),
    *('"2026-01-05T10:00:00"', '"2026-01-05T10:00:00+02:00"', '"2026-01-05T10:00:00-0330"', '"2026-01-05T10:00:00+02"'),
    *('"2026-01-05T10:00:00+16:00"', '"2026-01-05T10:00:00+02:60"', '"2026-01-05T24:00:00Z"', '"2026-01-05T24:00:01Z"'),
    *('"2026-01-05T23:59:60Z"', '"2026-01-05T23:59:60.5Z"', '"2026-01-05T23:59:61Z"', '"2026-01-05T10:60:00Z"'),
    *(
        '"2026-01-05T10:00Z"',
        '"2026-01-05T10:15.5Z"',
        '"2026-01-05T10:00:00.123456Z"',
        '"2026-01-05T10:00:00.1234567Z"',
    ),
    *('"2026-01-05T10:00:00.9999995Z"', '"2026-01-05T10:00:00.Z"', '"2026-01-05T10:00:00 Z"', '"2026-02-30T10:00:00Z"'),
    *(
        '["a","b"]',
        '["a", null , "c,\\"\\\\}"]',
        '["\\n\\u00e9","NULL","{}"]',
        '["\\u0000"]',
        "[1, true]",
        '[["a"]]',
        '[""]',
    ),
    *(
        '"08:15"',
        '"08:15:30"',
        '"08:15:00.5"',
        '"08:15:00.1234565"',
        '"08:15:00.4999996"',
        '"24:00"',
        '"24:00:00.000001"',
    ),
    *(
        '"24:01"',
        '"25:00"',
        '"08:60"',
        '"08:15:60"',
        '"08:15:60.5"',
        '"23:59:60"',
        '"23:59:60.5"',
        '"23:59:59.9999999"',
    ),
    *(
        '"8:15"',
        '"8:15 AM"',
        '"08.15"',
        '" 08:15 "',
        '"08:15Z"',
        '"08:15:00+02:00"',
        '"08:15 -03"',
        '"0815"',
        '"08:15:00."',
    ),
    *('"22:00:00.0000001"', '"22:00:00.000001"', '"08\\u003a15"', '"08:15 PM"', '"allballs"', '"T08:15"', '"30600.25"'),
    *('"0f8fad5b-d9cb-469f-a165-70867728950e"', '"0F8FAD5B-D9CB-469F-a165-70867728950E"', '"\\u0030f8fad5b"'),
    *('"\\u0030f8fad5b-d9cb-469f-a165-70867728950e"', '" 0f8fad5b-d9cb-469f-a165-70867728950e "'),
    *('"0f8fad5bd9cb469fa16570867728950e"', '"{0f8fad5b-d9cb-469f-a165-70867728950e}"'),
    *('"0f8fad5b-d9cb-469f-a165-70867728950"', '"0f8fad5b-d9cb-469f-a165-70867728950g"'),
    *('" a"', '"a "', '"\\u00a0a"', '"　abcde　"', '"a\\u0020"', '"  "', '" N/A "', '"　\\n a"', '" 2026-01-05 "'),
    *(
        '"05.01.2026"',
        '"5.1.2026"',
        '"03/04/14"',
        '"13/02/69"',
        '"31.02.2026"',
        '"05.01.2026 10:30"',
        '"1767607200"',
        "1767607200123",
    ),
    *("1767607200.1234565", "-1", '" 86400 "', "1e9", "1e30", '"99999999999999999999"', '"\\u0030"'),
    *(
        '"2025-10-26T02:30:00"',
        '"2025-03-30 02:30:00.5"',
        '"2025-03-30 02:30"',
        '"2026-01-05T24:00:00"',
        '"2026-01-05T23:59:60"',
    ),
    *(
        "5.0",
        "-5.0",
        "5.00",
        "32767.0",
        "9223372036854775808.0",
        "1.0e2",
        '"5.0"',
        '"-5.00"',
        '"1.0.0"',
        '"1-2"',
        '"."',
    ),
    *('"-"', '"- 5"', '"nu1ll"', '"4 2"', '"2147483648"', "1234567890", '"0.0"', '"00.5"', '"٤٢"', '"TRUE"', '"null "'),
    *('"2026-01-05T10:00:00ZZ"', '"\\u0032026-01-05T10:00:00Z"', '"2026-01-05T10:00:00\\u005a"', '"2026-01-05BC"'),
]


# Rows as text without their lineage. `near` is cast to text because JSON would lose the sign of a zero.
MIXED: LiteralString = """
select ((to_jsonb(t) - '{etl_run,etl_batch,etl_place}'::text[]) || jsonb_build_object('near', near::text))::text
from lab.mixed t order by 1
"""
MIXED_ITEMS: LiteralString = """
select (to_jsonb(t) - '{etl_run,etl_batch,etl_place}'::text[])::text from lab.mixed_items t order by 1
"""


@dataclass(frozen=True, kw_only=True)
class Found:
    """The result of a load: its rows, rejected records, end, records read, texts changed and unknown members."""

    rows: list[list[str]]
    rejected: list[dict[str, Any]]
    exit_code: int
    error: str
    read: int
    coerced: dict[str, int]
    unknown: tuple[dict[str, int], int]


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has the tables of `mixed`."""
    site.define(DEFINITION)
    return site


def _load(site: Site, content: bytes, *, decoder: Decoder = "auto", batch_rows: int = 100, workers: int = 1) -> Found:
    """Load a source into empty tables, and return the result."""
    site.forget_loads("mixed")
    path = site.folder / "source"
    path.write_bytes(content)
    summary, error = site.bring(path, "mixed", decoder=decoder, workers=workers, batch_rows=batch_rows)
    return Found(
        rows=[site.column(query) for query in (MIXED, MIXED_ITEMS)],
        rejected=site.failures.records(summary.run),
        exit_code=summary.exit_code,
        error=str(error or ""),
        read=summary.records.read,
        coerced=dict(summary.policies.coerced),
        unknown=(dict(summary.policies.unknown), summary.policies.unknown_others),
    )


def _member(column: str, token: str) -> str:
    """Return the JSON member in which a column finds its token, within its outer members."""
    names = MEMBERS.get(column, [column])
    for name in reversed(names):
        token = f"{json.dumps(name)}:{token}" if name is names[-1] else f"{json.dumps(name)}:{{{token}}}"
    return token


@contextmanager
def _counting_fast_rows() -> Iterator[list[int]]:
    """Count the rows that the fast path sends."""
    counts: list[int] = []
    without = lines.Lines.without

    def counting(self: Any, suspects: set[int]) -> tuple[Mapping[bytes, bytes], int]:
        kept = without(self, suspects)
        counts.append(kept[1])
        return kept

    with patch.object(lines.Lines, "without", counting):
        yield counts


@pytest.mark.parametrize(
    ("batch_rows", "share"),
    [(7, 10), *(pytest.param(*each, marks=pytest.mark.slow) for each in ((7, 5), (7, 1), (1, 1)))],
)
def test_both_paths_treat_each_token_alike(site: Site, batch_rows: int, share: int) -> None:
    """For any token in a column, both paths load the same value or reject the record for the same reason.

    `share`: each column takes only every so many tokens, the next column others; one source then has many columns.
    """
    coerced: set[str] = set()
    columns = [*COLUMNS, "sku", "quantity", "size", "o", "items"]
    together = 1 if share == 1 else 15
    for chosen in (columns[first : first + together] for first in range(0, len(columns), together)):
        records = [
            _with_token(column, f"{column} {number}", token)
            for column in chosen
            for number, token in enumerate(TOKENS[columns.index(column) % share :: share])
        ]
        document = f"[{','.join(records)}]".encode()
        checked = _load(site, document, decoder="ijson", batch_rows=1000)
        assert checked.read == len(records)
        coerced |= checked.coerced.keys()
        with _counting_fast_rows() as counts:
            # Small batches: a token that the server refuses hides few others.
            assert _load(site, document, batch_rows=batch_rows) == checked, chosen
        # A column with `misfits_to` sends fewer fast rows: a value that does not fit is moved.
        assert sum(counts) > len(checked.rows[0]) / 4 or chosen[0].startswith("moved"), chosen
    numbers = (
        "small",
        "whole",
        "big",
        "exact",
        "volume",
        "near",
        "bounded",
        "deeper",
        "none_number",
        "moved",
        "needed",
    )
    assert coerced >= {f"lab.mixed.{name}" for name in numbers} | {"lab.mixed_items.quantity", "lab.mixed_items.size"}
    assert not coerced & {"lab.mixed.words", "lab.mixed.day", "lab.mixed.yes"}


def _with_token(column: str, number: object, token: str) -> str:
    """Return a record that is good, except for the token of one column."""
    needed = "" if column == "needed" else ',"needed":1'
    if column not in {"sku", "quantity", "size"}:
        return f'{{"id":"{number}"{needed},{_member(column, token)}}}'
    item = f'{{"size":{{"cm":{token}}},"sku":"s"}}' if column == "size" else f'{{"sku":"s","{column}":{token}}}'
    return f'{{"id":"{number}"{needed},"items":[{{"sku":"a"}},{item}]}}'


def test_good_records_do_not_need_the_checked_path(site: Site) -> None:
    """Good records with nulls, escapes, numbers in texts and all usual spellings of times take the fast path."""
    good = {
        "words": ['"a\\"b\\\\c\\nd"', "17", "1.50", "true", "null", '"é"'],
        "short": ['"abcde"', "null", "12345"],
        "whole": ["5", "-3", "null", '"007"'],
        "big": ["123456789012345678"],
        "exact": ["1.5", "1e5", "-0.0", '"12.50"', "null", '"001000"'],
        "weight": ["0.001", "12"],
        "volume": ["0", "0.00", "3.5"],
        "share": ["0.5", "-0.5", "0"],
        "near": ["1.5", "1e300"],
        "yes": ["true", "false", "null", '"true"'],
        "clock": ['"08:15:30.123"', '"23:59:59"', "null", '"24:00"', '"00:00"'],
        "other_clock": ['"24:00"', "null", '"08:15"'],
        "opened": ['"08:15:00.5"', '"22:00"', '"12:30:00"'],
        "number": ['"0f8fad5b-d9cb-469f-a165-70867728950e"', '"0F8FAD5B-D9CB-469F-A165-70867728950E"', "null"],
        "other_number": ['"0f8fad5b-d9cb-469f-a165-70867728950e"', '"N/A"'],
        "day": ['"2026-01-05"', "null"],
        "at": ['"2026-01-05T10:00:00Z"', '"2026-01-05 10:00:00.123+02:00"', '"2024-02-29T10:00:00-0330"', "null"],
        "doc": ['{"a": [1, "x"]}', "null", '"x"', "1"],
        "deep": ['"x"'],
        "none_text": ['"N/A"', '"x"'],
        "none_number": ["0", "-1.5", "2"],
        "needed": ["1"],
    }
    records = []
    for number in range(60):
        chosen = {name: tokens[number % len(tokens)] for name, tokens in good.items()}
        members = ",".join(_member(name, token) for name, token in chosen.items())
        records.append(f'{{"id":"{number}",{members},"more":[{{"id":1}}],"items":[{{"sku":"a","quantity":{number}}}]}}')
    for text in (f"[{','.join(records)}]", "\n".join(records), "\r\n".join(records)):
        with _counting_fast_rows() as counts, patch.object(Projection, "rows_of", side_effect=AssertionError):
            found = _load(site, text.encode())
        assert (found.exit_code, found.rejected, sum(counts)) == (0, [], 120)
        assert found.rows == _load(site, text.encode(), decoder="ijson").rows


def test_a_column_that_the_server_refused_is_checked_afterwards(site: Site) -> None:
    """When many records break a limit or the range of a type, the server refuses only the first batch of each."""
    records = []
    for number in range(800):
        weight = -1 if number % 20 == 7 else 2.5
        big = 10**20 if number % 20 == 13 else number
        exact = '"none"' if number % 20 == 3 else 1.5
        words = "a\\u0000b" if number % 20 == 17 else "a\\nb"
        at = "soon" if number % 20 == 9 else "2026-01-05T10:00:00Z"
        uuid = "x" if number % 20 == 11 else f"0f8fad5b-d9cb-469f-a165-{number:012}"
        texts = f'"words":"{words}","at":"{at}","number":"{uuid}"'
        records.append(f'{{"id":"{number}","needed":1,"weight":{weight},"big":{big},"exact":{exact},{texts}}}')
    document = f"[{','.join(records)}]".encode()
    checked = _load(site, document, decoder="ijson")
    assert len(checked.rejected) == 240
    with capture_logs() as logs, _counting_fast_rows() as counts:
        assert _load(site, document, batch_rows=20) == checked
    # For each of the two: the first refused batch, and the batches that were already made by then.
    assert 2 <= sum(entry["event"] == "batch_refused" for entry in logs) <= 2 * 3
    assert sum(counts) > 540  # of the 560 rows that load; each is made once


TOKEN = st.sampled_from(TOKENS)
ANY_COLUMN = st.sampled_from([*COLUMNS, "id", "note", "unknown"])
UNKNOWN = [
    *('"colour":1', '"colour":{}', '"col\\u006fur":[{"a":1}]', '"colour":null', '"":"é"', '"Colour":"\\ud83d"'),
    *('"o":{"n":1,"z":2}', '"o":{"z":{"n":1}}', '"o":[{"z":1},{"y":[]}]', '"a.b":{"#":"x","c":1}', '"a b-ü":1,"o":7'),
    *('"q\\"x":1', '"\\u0000":[[1]]', '"\\ud800":1', '"line\\n":2e400', '"ü":99999999999999999999999', '"x":1e99999'),
    *(f'"{"n" * 99}{end}":0' for end in ("", "a", "ab", "abc")),
    *(f'"colour":{"[" * depth}{"]" * depth}' for depth in (300, 9_000)),
    *(f'"more{number}":[]' for number in range(30)),
]
GOOD = {"needed": "1", "weight": "2.5", "at": '"2026-01-05T10:00:00Z"', "words": '"x"', "whole": "7"}


@st.composite
def records(draw: st.DrawFn) -> str:
    """Draw a record: most are good; members may be odd or come twice, names may be escaped, blanks are anywhere."""
    blank = draw(st.sampled_from(["", " ", "\t", "  "]))
    chosen = GOOD | draw(st.dictionaries(ANY_COLUMN, TOKEN, max_size=2))
    members = [_member(name, token) for name, token in chosen.items()]
    if draw(st.booleans()):
        skus = draw(st.lists(st.sampled_from(['"a"', '"b"', "7", '"toolong"', "null", '"\\u0061"']), max_size=3))
        more = draw(st.sampled_from(["", "", '"id":"x",', '"a.b":1,', '"size":{"cm":1,"in":2},']))
        items = [f'{{{more}"sku":{sku},"quantity":{number}}}' for number, sku in enumerate(skus)]
        members.append(f'"items":[{",".join([*items, *draw(st.sampled_from([[], [], ["{}"], ["null"], ["5"]]))])}]')
    members += draw(
        st.lists(st.sampled_from([_member("words", '"y"'), '"wor\\u0064s":"z"', '"o":{"n":1}', '"o":null']), max_size=2)
    )
    members += draw(st.sampled_from([[], [UNKNOWN[0]], *([each] for each in UNKNOWN), UNKNOWN]))
    first = '"id":' + draw(st.sampled_from(['"0"', '"0"', '"0"', '"1"', "3", "null"]))
    joined = f"{blank},{blank}".join([first, *draw(st.permutations(members))])
    return "{" + blank + joined.replace('":', f'"{blank}:{blank}') + "}"


@st.composite
def documents(draw: st.DrawFn) -> bytes:
    """Draw a document of records, intact or damaged."""
    held = draw(st.lists(records() | st.sampled_from(["{}", "5", "[]", '"x"']), min_size=1, max_size=25))
    if draw(st.booleans()):
        text = "[" + draw(st.sampled_from([",", ", ", ",\n", "\n,\n  "])).join(held) + "]"
    else:
        lines = [
            *held,
            *draw(st.lists(st.sampled_from(["x", '{"id":', "", "{} {}", '{"a":1},{"b":2}', "[1,2"]), max_size=2)),
        ]
        text = '{"id":"first","needed":1}\n' + draw(st.sampled_from(["\n", "\r\n"])).join(draw(st.permutations(lines)))
    content = bytearray(text.encode(errors="surrogatepass"))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        at = draw(st.integers(0, len(content) - 1))
        content[at : at + draw(st.integers(0, 1))] = draw(
            st.sampled_from([b"", b"}", b'"', b"\\", b"\xff", b"\n", b"1", b","])
        )
    return bytes(content)


@pytest.mark.parametrize("examples", [10, pytest.param(200, marks=pytest.mark.slow)])
def test_both_paths_treat_random_documents_alike(site: Site, examples: int) -> None:
    """Both paths load the same rows, reject the same records and end with the same exit code for any document."""

    @settings(deadline=None, derandomize=True, max_examples=examples)
    @given(documents(), st.sampled_from([1, 3, 100]), st.sampled_from([200, 1 << 17]))
    def compare(document: bytes, batch_rows: int, block: int) -> None:
        checked = _load(site, document, decoder="ijson", batch_rows=100)
        with patch.object(window, "BLOCK_BYTES", block), patch.object(piece_builder, "BLOCK_BYTES", block):
            fast = _load(site, document, batch_rows=batch_rows)
        assert fast == checked

    compare()


_MISFITS = [
    '"n/a"',
    '"-"',
    '""',
    '"{0} kg"',
    '"{0}x"',
    '"NaN"',
    '"ab{0}"',
    '"é{0}"',
    '"{0}e"',
    '"now"',
    '"{0}T1"',
    '" {0}"',
    "{0}",
]
_DECIMALS = ["{0}.5", '"{0}.50"', '"{0}"', "{0}e1"]
_WHOLES = ["{0}", '"{0}"', "{0}.0", "{0}.00", '"{0}.0"', '"0{0}"']
_TEXTS = ['"a{0}"', "{0}", "{0}.5", '"a\\n\\u00e9{0}"', '"  a{0}   "', '"\\u005cn{0}"', '"{0}\\u001f"', '""', '"N\\/A"']
_DAYS = ['"2026-01-{0:02d}"', '"{0}.1.2026"', '"{0:02d}.02.2026"', '"{0:02d}/03/69"', "{0}00000", '"2026-02-{0:02d}"']
_LOCAL = [
    '"2025-10-26T02:{0:02d}:00"',
    '"2025-03-30 02:30:{0:02d}.5"',
    '"26.10.2025 02:{0:02d}"',
    '"{0}.10.2025 2:{0:02d}"',
]
_EPOCHS = ["17676072{0:02d}123", '"17676072{0:02d}123"', "17676072{0:02d}123.25", "1{0}"]
_MOMENTS = [*_LOCAL, *_EPOCHS, *(f'{text[:-1]}Z"' for text in _LOCAL)]
_CLOCKS = ['"08:15:{0:02d}"', '"{0:02d}:15"', '"{0:02d}.59"', '"8.{0:02d}"', '"23:59:{0:02d}.5"']
SPELLINGS = {
    **dict.fromkeys(("day", "written", "trimmed_day"), _DAYS),
    **dict.fromkeys(("local", "zoned", "at", "stamped"), _MOMENTS),
    **dict.fromkeys(("clock", "closed", "opened"), _CLOCKS),
    **dict.fromkeys(("exact", "weight", "volume", "near", "none_number", "none_quoted"), _DECIMALS),
    **dict.fromkeys(("moved", "moved_at", "moved_clock"), _MISFITS),
    **dict.fromkeys(("small", "big", "needed", "filled_number"), _WHOLES),
    **dict.fromkeys(("words", "short", "note", "late", "none_text", "trimmed", "filled"), _TEXTS),
}
"""Ways in which all values of a column may be written; `{0}` is a number from 1."""


@st.composite
def uniform_documents(draw: st.DrawFn) -> bytes:
    """Draw a document in which each column has one spelling, but for some values of any kind."""
    columns = draw(st.lists(st.sampled_from([*SPELLINGS]), min_size=3, max_size=8, unique=True))
    written = {column: draw(st.sampled_from(SPELLINGS[column])) for column in columns}
    count = draw(st.integers(1, 30))
    places = st.tuples(st.integers(0, count - 1), st.sampled_from(columns))
    odd = draw(st.dictionaries(places, TOKEN | st.just("null"), max_size=draw(st.sampled_from([0, 1, 10]))))
    held = []
    for number in range(count):
        tokens = {"needed": "1"} | {
            column: odd.get((number, column), spelling.format(number * 37 % 97 + 1))
            for column, spelling in written.items()
        }
        held.append(f'{{"id":"{number}",{",".join(_member(name, token) for name, token in tokens.items())}}}')
    return f"[{','.join(held)}]".encode()


@pytest.mark.parametrize("examples", [10, pytest.param(500, marks=pytest.mark.slow)])
def test_both_paths_treat_columns_of_one_spelling_alike(site: Site, examples: int) -> None:
    """A column whose values are all written in one way loads the same values by both paths, with some odd ones too."""

    @settings(deadline=None, derandomize=True, max_examples=examples)
    @given(uniform_documents(), st.sampled_from([7, 100]))
    def compare(document: bytes, batch_rows: int) -> None:
        checked = _load(site, document, decoder="ijson", batch_rows=100)
        assert _load(site, document, batch_rows=batch_rows) == checked

    compare()


def test_invalid_utf8_in_any_column_is_treated_alike(site: Site) -> None:
    """A text that is no UTF-8 rejects its record alone, in each column, by both paths."""
    records = []
    for number, column in enumerate(COLUMNS):
        member = _member(column, '"?"').encode().replace(b"?", b"\xff\xffabc")
        needed = b"" if column == "needed" else b',"needed":1'
        good = [b'{"id":"%d.%d","needed":1}' % (number, place) for place in range(10)]
        records += [*good[:5], b'{"id":"%d"%b,%b}' % (number, needed, member), *good[5:]]
    document = b"[%b]" % b",".join(records)
    checked = _load(site, document, decoder="ijson")
    assert len(checked.rejected) == len(COLUMNS)
    assert _load(site, document, batch_rows=11) == checked


@pytest.mark.parametrize(
    ("shape", "depth", "opening"),
    [
        ("array", 5_000, "["),
        ("lines", 250, '{"a":'),
        pytest.param("array", 250, '{"a":', marks=pytest.mark.slow),
        pytest.param("lines", 9_000, '[{"a":', marks=pytest.mark.slow),
    ],
)
def test_a_deep_value_is_treated_alike_by_both_paths(site: Site, shape: str, depth: int, opening: str) -> None:
    """A value of many levels loads where no column takes it, and as jsonb; elsewhere its record is rejected alone."""
    closing = {"[": "]", '{"a":': "}", '[{"a":': "}]"}[opening]
    times = depth // len(closing)
    token = opening * times + "1e2" + closing * times
    for column, exit_code in (("unknown", 0), ("doc", 0), ("words", 1), ("deep", 1), ("tags", 1), ("items", 1)):
        document = _with_deep(column, token, shape)
        checked = _load(site, document, decoder="ijson", batch_rows=10)
        assert _load(site, document, batch_rows=10) == checked, column
        assert (checked.exit_code, checked.read, len(checked.rejected)) == (exit_code, 40, exit_code), column
        assert not any("JSON" in record["reason"] for record in checked.rejected)
        if column == "doc":
            [stored] = site.column("select doc::text from lab.mixed where doc is not null")
            assert "".join(stored.split()) == token.replace("1e2", "100")


@pytest.mark.parametrize(("shape", "depth"), [("array", 100_000), ("lines", MAX_NESTING)])
def test_a_record_beyond_the_bound_of_levels_is_rejected_alone(site: Site, shape: str, depth: int) -> None:
    """A record of more levels than any may have is reported by its number, its byte and the bound."""
    document = _with_deep("unknown", "[" * depth + "]" * depth, shape)
    checked = _load(site, document, decoder="ijson", batch_rows=10)
    assert _load(site, document, batch_rows=10) == checked
    assert (checked.exit_code, checked.read) == (1, 40)
    [record] = checked.rejected
    assert (record["record"], record["sqlstate"]) == (31, "54001")
    assert record["offset"] == document.index(b'{"id":"30"')
    assert "nested deeper than 10,000" in record["reason"]


def test_a_deep_value_that_the_server_refuses_rejects_its_record(site: Site) -> None:
    """Where the stack of the server is too small for a jsonb, its record is rejected and the others load."""
    [name] = site.column("select current_database()")
    site.ask(sql.SQL("alter database {} set max_stack_depth = '256kB'").format(sql.Identifier(name)))
    document = _with_deep("doc", "[" * 9_000 + "]" * 9_000, "lines")
    checked = _load(site, document, decoder="ijson", batch_rows=10)
    assert _load(site, document, batch_rows=10) == checked
    assert (checked.exit_code, len(checked.rows[0])) == (1, 39)
    assert [(record["record"], record["sqlstate"]) for record in checked.rejected] == [(31, "54001")]


@pytest.fixture
def small_limit() -> Iterator[None]:
    """Let records of more than a kilobyte count as large."""
    with ExitStack() as patches:
        for module in (decoding, fastpath, partial, piece_builder):
            patches.enter_context(patch.object(module, "WHOLE_RECORD_BYTES", 1_000))
        patches.enter_context(patch.object(partial, "VALUE_BYTES", 500))
        yield


@pytest.mark.usefixtures("small_limit")
@pytest.mark.parametrize("shape", ["array", "lines"])
def test_a_large_record_is_treated_alike_by_both_paths(site: Site, shape: str) -> None:
    """Children, paths and jsonb of a large record load, and one child that does not fit rejects the whole record."""
    many = ",".join(['{"sku":"a", "quantity":1}'] * 500)
    for token, column, items in (
        (f"[{many}]", "items", 500),
        (f'[{many}, {{"sku":"a", "quantity":"x"}}]', "items", 0),
        (f"[{many}]", "doc", 0),
        (f"[{many}]", "words", 0),
        (f'"x", "more":[{many}]', "deep", 0),
    ):
        document = _with_deep(column, token, shape)
        checked = _load(site, document, decoder="ijson", batch_rows=10)
        assert _load(site, document, batch_rows=10) == checked, column
        is_bad = column == "words" or '"x"}' in token
        assert (checked.exit_code, len(checked.rejected), len(checked.rows[1])) == (is_bad, is_bad, items), column
        taken = site.column("select coalesce(deep, jsonb_array_length(doc)::text) from lab.mixed where id = '30'")
        assert taken == [{"deep": "x", "doc": "500"}.get(column)] * (not is_bad)


def _with_deep(column: str, token: str, shape: str) -> bytes:
    """Return a document of 40 records, of which number 31 has the token in a column."""
    held = [f'{{"id":"{number}","needed":1}}' for number in range(40)]
    held[30] = _with_token(column, 30, token)
    return ("\n".join(held) if shape == "lines" else f"[{','.join(held)}]").encode()


@pytest.mark.slow
@pytest.mark.parametrize("decoder", ["auto", "ijson"])
@pytest.mark.parametrize("shape", ["lines", "array", "cut off"])
def test_any_number_of_workers_gives_the_same_result(site: Site, shape: str, decoder: Decoder) -> None:
    """Loads with 1, 2 and 5 workers give the same rows, the same rejected records and the same exit code."""
    columns = list(COLUMNS)
    held = [
        f'{{"id":"{number}","needed":1,{_member(columns[number % len(columns)], token)}}}'
        for number, token in enumerate(TOKENS * 4)
    ]
    text = "\n".join([*held, '{"id":', "no JSON"]) if shape == "lines" else f"[{','.join(held)}]"
    document = (text[:-50] if shape == "cut off" else text).encode()
    checked = _load(site, document, decoder="ijson", batch_rows=1000)
    assert checked.exit_code == (3 if shape == "cut off" else 1)
    for workers, batch_rows in ((1, 60), (2, 50), (5, 70)) if decoder == "auto" else ((2, 60),):
        assert _load(site, document, workers=workers, batch_rows=batch_rows, decoder=decoder) == checked


@pytest.mark.parametrize(
    ("column", "server_name", "value", "exit_code"),
    [
        ("big", "bigint", "5", 0),
        ("at", "timestamp with time zone", '"2026-13-05T10:00:00Z"', 1),
        ("day", "date", '"2026-02-30"', 1),
        ("clock", "time without time zone", '"25:00"', 1),
    ],
)
def test_a_table_with_other_types_is_loaded_by_the_checked_path(
    site: Site, column: str, server_name: str, value: str, exit_code: int
) -> None:
    """When the column of the table has another type, its values are converted before they are sent."""
    document = f'[{{"id":"1","needed":800.0,"{column}":{value}}}]'.encode()
    site.ask(sql.SQL("alter table lab.mixed alter {} type text").format(sql.Identifier(column)))
    with capture_logs() as logs:
        result = _load(site, document)
    [event] = [entry for entry in logs if entry["event"] == "checked_path_only"]
    assert event["reason"] == f"column {column} of lab.mixed is text and not {server_name}"
    assert result.exit_code == exit_code


def test_a_precision_keeps_the_fast_path(site: Site) -> None:
    """A type with a precision is the type of the definition: PostgreSQL rounds what either path sends."""
    site.ask("alter table lab.mixed alter at type timestamptz(3), alter exact type numeric(9, 2)")
    with capture_logs() as logs:
        _load(site, b'[{"id":"1","needed":1,"at":"2026-01-05T10:00:00.1234Z","exact":1.005}]')
    assert "checked_path_only" not in {entry["event"] for entry in logs}


@pytest.mark.parametrize("count", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_unknown_members_are_counted_alike(site: Site, count: int) -> None:
    """Both paths count the same records by their unknown members, whatever their number, spelling and place."""
    held = [
        f'{{"id":"{number}","needed":{"null" if number % 7 == 3 else 1},{UNKNOWN[number % len(UNKNOWN)]}'
        f',"items":[{{"sku":"s"}},{{"sku":"toolong","kg":1}},{{"sku":"s","kg":1,"size":{{"cm":1,"{number}":2}}}}]}}'
        if number % 50 < count
        else f'{{"id":"{number}","needed":1}}'
        for number in range(150)
    ]
    last = '{"id":"last","needed":1,"only_here":1}'
    spoiled = '{"id":"x","needed":1,"colour":"\udcff"}'  # no UTF-8
    for text in ("[" + ",\n".join([*held, last]) + "]", "\n".join([*held, spoiled, last]), " ".join([*held, last])):
        document = text.encode(errors="surrogateescape")
        checked = _load(site, document, decoder="ijson", batch_rows=1000)
        names, others = checked.unknown
        assert names["only_here"] == 1
        assert names["items.kg"] == count * 3
        assert (len(names), others > 0) == ((100, True) if count == 30 else (len(names), False))
        for batch_rows, workers in ((1000, 1), (20, 1 if count == 30 else 2)):
            assert _load(site, document, batch_rows=batch_rows, workers=workers) == checked


CLEAN_LEG = '{"mode":"sea","at":{"stops":[{"sku":"a"},{"sku":"b"}]}}'
SHAPED = """
name = "mixed"
{options}
[[table]]
name = "lab.mixed"
{table}
[table.columns]
id = {{ type = "text", required = true }}
{columns}
[[table]]
name = "lab.mixed_items"
each = ["legs", "at.stops"]
where = {{ "^.mode" = ["sea", "air"] }}
[table.columns]
id = {{ path = "^^.id", type = "text" }}
line_no = {{ path = "#", type = "integer" }}
sku = {{ type = "text", max_length = 4 }}
"""
POSITIONS = """
near = { path = "parts.0.weight", type = "double" }
second = { path = "parts.1.doc", type = "jsonb" }
tag = { path = "tags.0", type = "text" }
cell = { path = "grid.1.0.n", type = "integer" }
"""
SHAPES = {
    "keyed": (
        'records = "items.*"',
        "",
        f'kind = "text"\no = {{ path = "o.level", type = "text" }}\ncode = {{ path = "@", type = "text" }}{POSITIONS}',
    ),
    "where": (
        "",
        'where = { kind = ["road", "rail"], "o.level" = 1 }',
        f'o = {{ path = "o.n", type = "text" }}{POSITIONS}',
    ),
    "whole": ("", "", 'near = "double"\nraw = { path = ".", type = "jsonb" }'),
}
STRANGE = [
    '"colour":1',
    '"ke\\u006e":{}',
    '"o":{"level":1,"x":[{}]}',
    '"parts":[{"weight":{"a":1},"x":1},{"doc":{"any":{"y":1}},"x":1},null]',
    '"tags":[{"a":1},{"b":[{"c":1}]}]',
    '"grid":[[],[{"n":1,"m":1}],[{"m":2},{"l":1}]]',
    '"grid":[[{}],null]',
    '"legs":[{"mode":"sea","kn":9,"at":{"by":1,"stops":[{"sku":"a","kg":1},{"sku":"toolong","t":1}]}}]',
    '"legs":[{"mode":"road","at":{"stops":[{"kg":1}]}}],"near":"x","w":1',
    '"kind":"sky","s":1',
]
"""Texts with unknown members, which the fast path decodes."""
STRANGER = [
    '"o":{"n":1,"level":1.0},"parts":{"0":{"z":1}}',
    '"parts":[{"0":{"z":1}}]',
    '"tags":{"d":1}',
    '"legs":[{"at":5,"v":1}]',
    '"colour":"\\ud83d"',
    '"colour":"\udcff"',  # no UTF-8
    f'"colour":{"[" * 300}{"]" * 300}',
    f'"colour":{"[" * 1_000}{"]" * 1_000}',
    f'"big":"{"x" * (1 << 20)}"',
    '"id":7,"id":null,"late":1',
    f'"legs":[{",".join([CLEAN_LEG] * 40)}],"l":1',
]


def _shaped(shape: str, separator: str, strange: list[str]) -> bytes:
    """Return a document in which some records have one of these texts; with more than ten, one record is no object."""
    held = []
    for number in range(120):
        more = f",{strange[number // 5 % len(strange)]}" if strange and number % 5 == 0 else ""
        held.append(f'{{"id":"{number}","kind":"road","o":{{"level":1}},"tags":["a"],"legs":[{CLEAN_LEG}]{more}}}')
    if strange[10:]:
        held.append("[]")
    if shape == "keyed":
        held = [f'"K{number % 120}"{separator[1:]}:{text}' for number, text in enumerate(held)]
        return f'{{"items":{{{separator.join(held)}}}}}'.encode(errors="surrogateescape")
    joined = "\n".join(held) if separator == "lines" else f"[{separator.join(held)}]"
    return joined.encode(errors="surrogateescape")


@pytest.mark.parametrize("on_unknown", ["warn", pytest.param("reject", marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", SHAPES)
def test_unknown_members_of_each_shape_are_counted_alike(site: Site, shape: str, on_unknown: str) -> None:
    """Both paths count the same where records have keys, conditions, positions, nested arrays or a whole column."""
    options, table, columns = SHAPES[shape]
    options += f'\non_unknown = "{on_unknown}"'
    site.ask("drop table lab.mixed, lab.mixed_items")
    site.define(SHAPED.format(options=options, table=table, columns=columns))
    expected = {"legs.at.stops.kg", "legs.kn", "colour", "parts.x", "grid.m", "grid.l", "ken", "o.x"}
    separator = ", \n" if shape == "keyed" else "lines"
    for document in (_shaped(shape, ",", STRANGE), _shaped(shape, separator, STRANGE + STRANGER)):
        checked = _load(site, document, decoder="ijson", batch_rows=1000)
        names, others = checked.unknown
        assert (names.keys() >= expected, others) == (shape != "whole" and on_unknown == "warn", 0)
        assert not names.keys() & {"tags.a", "tags.c", "parts.weight.a", "parts.doc.any"}
        assert _load(site, document, batch_rows=60) == checked


@pytest.mark.parametrize("shape", SHAPES)
def test_known_members_are_not_examined(site: Site, monkeypatch: pytest.MonkeyPatch, shape: str) -> None:
    """Records without unknown members are not examined, also where records have keys or a column of the whole."""
    options, table, columns = SHAPES[shape]
    site.ask("drop table lab.mixed, lab.mixed_items")
    site.define(SHAPED.format(options=options, table=table, columns=columns))
    monkeypatch.setattr(Extras, "examine", None)
    result = _load(site, _shaped(shape, ",", ['"colour":1'] if shape == "whole" else []), batch_rows=30)
    assert (result.read, result.unknown) == (120, ({}, 0))


def test_members_below_positions_are_learned(site: Site) -> None:
    """An unknown member of an element at a position is examined once, and then counted by the fast path."""
    options, table, columns = SHAPES["where"]
    site.ask("drop table lab.mixed, lab.mixed_items")
    site.define(SHAPED.format(options=options, table=table, columns=columns))
    document = _shaped("where", ",", ['"parts":[{"x":1},{"x":2}],"grid":[[],[{"m":1}],null]'])
    with patch.object(Extras, "examine", autospec=True, side_effect=Extras.examine) as examine:
        assert _load(site, document, batch_rows=10).unknown == ({"grid.m": 24, "parts.x": 24}, 0)
    assert examine.call_count == 1
