import json
from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from etl.database.tables import create_tables
from etl.datasets import Dataset, read
from etl.ingestion.framing.decoding import decode
from etl.ingestion.framing.pieces import CutOptions, cut
from etl.ingestion.transform.projection import Projection
from tests.support.commands import RunEtl
from tests.support.faults import Connection
from tests.support.parcels import copy_rows
from tests.support.site import Site
from tests.support.streams import Bytes

Load = Callable[[bytes], list[tuple[Any, ...]]]

DEFINITION = """
name = "exact"
records = "item"
[[table]]
name = "logistics.exact"
[table.columns]
id = "integer"
note = "text"
number = "numeric"
number_text = { path = "number", type = "text" }
code = { type = "bigint", misfits_to = "long_code" }
long_code = "text"
raw = { path = ".", type = "jsonb" }
[[table]]
name = "logistics.exact_notes"
each = "notes"
[table.columns]
id = { path = "^.id", type = "integer" }
line_no = { path = "#", type = "integer" }
note = { path = ".", type = "text" }
"""

# Texts that COPY, a CSV reader, a shell or a regular expression often handle wrongly.
HARD_TEXTS = [
    "",
    " ",
    "\t",
    "\n",
    "\r",
    "\r\n",
    "\\",
    "\\\\",
    "\\N",
    "\\.",
    "\n\\.\n",
    "\\t\\n\\r",
    "\\x41\\101",
    "a\tb\nc\rd\\e",
    '"',
    '""',
    "'",
    "','\"",
    "null",
    "NULL",
    "{}[],:",
    "},{",
    "\b\f\v\x01\x1f\x7f\x80\x85\xa0",
    "\u2028\u2029\ufeff\ufffd\uffff",
    "\U0001f69a\U0010ffff",
    "e\u0301 \u00e9",
    "\u202eabc",
    "%s %(a)s {} $1 ?",
    "x" * 100_000,
    "\\" * 10_000,
]
HARD_NUMBERS = [
    "0",
    "0.0",
    "1e0",
    "123456789012345678",
    "-9223372036854775808",
    "9223372036854775808",
    "1234567890123456789012345678901234567890",
    "-0.12345678901234567890123456789012345678901234567890",
    "123456789012345678901234567890.123456789012345678901234567890",
    "1.10",
    "1.0E+2",
    "1e-7",
    "0.1",
    "5e-324",
    "1.7976931348623157e308",
    "9007199254740993",
]

TEXTS = st.text(
    st.sampled_from("\t\n\r\\N.\"'{}[],:\b\f\u2028\U0001f69a") | st.characters(codec="utf-8", exclude_characters="\x00")
)
NUMBERS = (
    st.integers(-(10**40), 10**40).map(str)
    | st.builds(
        "{}{}.{}".format,
        st.sampled_from(["", "-"]),
        st.integers(0, 10**25),
        st.text("0123456789", min_size=1, max_size=50),
    )
    | st.builds("{}e{}".format, st.integers(-(10**30), 10**30), st.integers(-60, 60))
)

quick = settings(
    deadline=None, derandomize=True, max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def _record(number: int, note: str, digits: str, *, ensure_ascii: bool) -> str:
    texts = json.dumps({"id": number, "note": note, "notes": [note, note[::-1]]}, ensure_ascii=ensure_ascii)
    return f'{texts[:-1]}, "number": {digits}, "code": {digits}}}'


def _expected(records: Sequence[tuple[str, str]]) -> list[tuple[Any, ...]]:
    """Return the rows that the table must hold: the text, the number, its digits, and its code if it has one."""
    rows = []
    for number, (note, digits) in enumerate(records):
        value = Decimal(digits)
        is_code = value == value.to_integral_value() and -(2**63) <= value < 2**63
        plain = f"{value:f}" if "e" in digits.lower() else digits
        raw = {"id": number, "note": note, "notes": [note, note[::-1]], "number": value, "code": value}
        rows.append(
            (note, value, plain, int(value) if is_code else None, None if is_code else plain, raw, [note, note[::-1]])
        )
    return rows


def _stored(connection: Connection) -> list[tuple[Any, ...]]:
    rows = connection.execute(
        "select note, number, number_text, code, long_code, raw::text,"
        " (select array_agg(note order by line_no) from logistics.exact_notes as child where child.id = exact.id)"
        " from logistics.exact order by id"
    ).fetchall()
    return [(*row[:5], json.loads(row[5], parse_float=Decimal, parse_int=Decimal), row[6]) for row in rows]


@pytest.fixture
def exact(site: Site) -> Dataset:
    """Write and read the definition of the dataset."""
    return read(site.write_definition(DEFINITION))


@pytest.fixture
def connection(loader_session: Connection, exact: Dataset) -> Connection:
    """Give a connection with the session settings of the loader, and the tables of the dataset."""
    create_tables(loader_session, exact)
    return loader_session


def _copied(connection: Connection, dataset: Dataset, data: bytes) -> list[tuple[Any, ...]]:
    """Load a source through pieces, records, rows and COPY; return the rows of the tables."""
    projection = Projection(dataset)
    with connection.transaction(force_rollback=True):
        for piece in cut(Bytes(data), CutOptions(format="auto", records_path="item", batch_rows=3)):
            batch = projection.batch(piece, decode(piece), 1, range(1, piece.count + 1))
            assert batch.rejected == ()
            for table, [rows] in zip(dataset.tables, batch.tables, strict=True):
                copy_rows(connection, table, b"".join(rows.encoded()))
        return _stored(connection)


@quick
@given(st.lists(st.tuples(TEXTS, NUMBERS), min_size=1, max_size=8), st.booleans(), st.booleans())
@example([(text, "1") for text in HARD_TEXTS], True, True)
@example([(text, "1") for text in HARD_TEXTS], False, False)
@example([("", digits) for digits in HARD_NUMBERS], True, True)
@example([("", digits) for digits in HARD_NUMBERS], False, False)
def test_texts_and_numbers_come_back_unchanged(
    connection: Connection, exact: Dataset, records: list[tuple[str, str]], is_array: bool, ensure_ascii: bool
) -> None:
    """Every character and digit of a source is stored in text, numeric, bigint and jsonb columns and in child rows."""
    lines = [_record(number, *record, ensure_ascii=ensure_ascii) for number, record in enumerate(records)]
    data = f"[{','.join(lines)}]" if is_array else "".join(f"{line}\n" for line in lines)
    assert _copied(connection, exact, data.encode()) == _expected(records)


@pytest.mark.parametrize("shape", ["array", "ndjson"])
def test_a_load_brings_them_unchanged(
    connection: Connection, run_etl: RunEtl, tmp_path: Path, exact: Dataset, shape: str
) -> None:
    """The command loads difficult texts and numbers unchanged, from an array and from lines."""
    records = [(text, HARD_NUMBERS[number % len(HARD_NUMBERS)]) for number, text in enumerate(HARD_TEXTS)]
    lines = [_record(number, *record, ensure_ascii=number % 2 == 0) for number, record in enumerate(records)]
    text = f"[{','.join(lines)}]" if shape == "array" else "\n".join(lines)
    (tmp_path / "exact.json").write_bytes(text.encode())
    done = run_etl("load", "exact", "exact.json", "--batch-rows", "7", "--json")
    assert done.returncode == 0, done.stderr
    assert _stored(connection) == _expected(records)
