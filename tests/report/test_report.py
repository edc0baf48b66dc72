import csv
import io
import json
import re
from decimal import Decimal
from pathlib import Path
from urllib.parse import quote

import pytest
from psycopg import sql
from pyarrow import parquet

from etl.report import display
from tests.support.checkout import ROOT
from tests.support.commands import RunEtl
from tests.support.faults import Connection
from tests.support.reports import HOSTILE, rows_of, ship


@pytest.fixture
def three(connection: Connection) -> None:
    """Give two days of three shipments, one of them with a weight of many digits."""
    ship(
        connection,
        ("S1", 'Żubr, "Express"\nŁódź', "2026-03-01", "12345678901234567890.123456789"),
        ("S2", "A", "2026-03-02", "0.10"),
        ("S3", "A", "2026-03-02", "2"),
    )


# --- the table on the terminal ------------------------------------------------------------------------------


@pytest.mark.usefixtures("three")
def test_a_report_without_a_name_lists_the_freshness_of_each_aggregate(run_etl: RunEtl, connection: Connection) -> None:
    """`etl report` lists each aggregate that was ever computed, with the time of its refresh."""
    done = run_etl("report")
    assert (done.returncode, done.stderr) == (0, "")
    for name, refreshed_at in rows_of(connection, "select aggregate, refreshed_at from analytics.freshness"):
        assert re.search(rf"^ {name} +{refreshed_at:%Y-%m-%d %H:%M:%S} ", done.stdout, re.MULTILINE)


@pytest.mark.usefixtures("three")
def test_the_newest_rows_come_first(run_etl: RunEtl) -> None:
    """A table shows the newest buckets first and at most --limit rows, and reports on stderr that there are more."""
    done = run_etl("report", "daily_shipments", "--limit", "1")
    assert done.returncode == 0
    assert "2026-03-02" in done.stdout
    assert "2026-03-01" not in done.stdout
    assert done.stderr == "1 of 2 rows; more with --limit\n"


def test_an_empty_aggregate_is_a_sentence(run_etl: RunEtl, connection: Connection) -> None:
    """Without a row no empty table is printed: a sentence names the database; JSON has no line."""
    ship(connection)
    done = run_etl("report", "daily_shipments")
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 2)
    assert "\nno row in " in done.stdout
    assert run_etl("report", "daily_shipments", "--json").stdout == ""


@pytest.mark.usefixtures("three")
def test_columns_are_chosen_by_name(run_etl: RunEtl) -> None:
    """--columns selects columns and their order; an unknown one is wrong usage, and the error names the known ones."""
    done = run_etl("report", "daily_shipments", "--columns", "sum_weight_kg, day", "--format", "csv", "--limit", "1")
    assert (done.returncode, done.stdout) == (0, "sum_weight_kg,day\n2.10,2026-03-02\n")
    done = run_etl("report", "daily_shipments", "--columns", "day,weight")
    assert (done.returncode, done.stdout) == (2, "")
    assert "daily_shipments has no column 'weight'" in done.stderr
    assert "sum_weight_kg" in done.stderr


def test_numbers_of_a_column_have_the_same_decimals() -> None:
    """Numbers are aligned by at most four decimals; text is shown unchanged, null as an empty cell."""
    values = [Decimal("1234.5"), None, Decimal("0.123456"), 7]
    assert display.texts(values) == ["1,234.5000", "", "0.1235", "7"]
    assert display.texts(["1.50", True, None]) == ["1.50", "yes", ""]


def test_data_cannot_control_the_terminal(run_etl: RunEtl, connection: Connection) -> None:
    """Control characters of a carrier's name are shown as codes."""
    ship(connection, ("S1", HOSTILE + "\x07", "2026-03-01", "1"))
    done = run_etl("report", "carrier_performance")
    assert done.returncode == 0
    assert r"\x1b[31m\x202e\x07" in done.stdout
    assert not set(done.stdout) & {"\x1b", "\x07", "\u202e"}


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("three")
def test_csv_and_json_have_every_row_and_digit(run_etl: RunEtl, connection: Connection) -> None:
    """Both have the rows of the table, the newest bucket first, and nothing is rounded or lost."""
    text = "select day::text, carrier, sum_weight_kg::text, on_time_share::text from analytics.daily_shipments"
    expected = rows_of(connection, f"{text} order by day desc")
    names = ("day", "carrier", "sum_weight_kg", "on_time_share")
    done = run_etl("report", "daily_shipments", "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(done.stdout, newline="")))
    assert [tuple(row[name] for name in names) for row in rows] == expected
    done = run_etl("report", "daily_shipments", "--format", "json")
    documents = [json.loads(line, parse_float=str, parse_int=str) for line in done.stdout.splitlines()]
    assert [tuple(document[name] for name in names) for document in documents] == expected
    assert documents[0]["sum_volume_m3"] == "0"
    assert documents[0]["stddev_transit_hours"] == "0.000"


@pytest.mark.usefixtures("three")
def test_parquet_has_every_row_digit_and_comment(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """A Parquet file equals the table in values and types, and has the description of each column."""
    done = run_etl("report", "daily_shipments", "--output", "days.parquet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    table = parquet.read_table(tmp_path / "days.parquet")
    names = sql.SQL(", ").join(map(sql.Identifier, table.column_names))
    expected = connection.execute(
        sql.SQL("select {} from analytics.daily_shipments order by day desc").format(names)
    ).fetchall()
    assert [tuple(row.values()) for row in table.to_pylist()] == expected
    assert str(table.schema.field("day").type) == "date32[day]"
    assert str(table.schema.field("count_shipments").type) == "int64"
    assert str(table.schema.field("sum_weight_kg").type) == "decimal128(38, 9)"
    assert table.schema.field("sum_weight_kg").metadata[b"comment"].startswith(b"weight. Unit: kg, as in the data.")
    assert table.schema.metadata[b"grain"] == b"One row per day, carrier and service level."


@pytest.mark.slow
def test_parquet_without_pyarrow_is_wrong_usage(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """Without the extra the exit code is 2, the hint is the command that installs it, and no file is left."""
    ship(connection, ("S1", "A", "2026-03-01", "1"))
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "pyarrow.py").write_text("raise ModuleNotFoundError(name='pyarrow')\n")
    env = {"PYTHONPATH": f"{hidden}:{ROOT}"}
    words = ["report", "daily_shipments", "--format", "parquet", "--output", "days.parquet"]
    done = run_etl(*words, env=env, own_process=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "hint: pip install pyarrow" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["hidden"]


@pytest.mark.usefixtures("three")
def test_the_ending_of_the_file_selects_the_format(run_etl: RunEtl, tmp_path: Path) -> None:
    """The ending of --output selects the format, --format overrides it, and without either the exit code is 2."""
    for name, begin in (("a.csv", b"day,"), ("a.json", b'{"day"'), ("a.html", b"<!doctype"), ("a.parquet", b"PAR1")):
        assert run_etl("report", "daily_shipments", "--output", name).returncode == 0
        assert (tmp_path / name).read_bytes().startswith(begin)
    assert run_etl("report", "daily_shipments", "--output", "b.txt", "--format", "csv").returncode == 0
    assert (tmp_path / "b.txt").read_bytes() == (tmp_path / "a.csv").read_bytes()
    done = run_etl("report", "daily_shipments", "--output", "c.txt")
    assert (done.returncode, (tmp_path / "c.txt").exists()) == (2, False)
    assert "--format" in done.stderr


@pytest.mark.usefixtures("three")
def test_a_file_is_whole_or_as_it_was(run_etl: RunEtl, tmp_path: Path) -> None:
    """A report that fails leaves the existing file unchanged, and a missing folder is wrong usage."""
    (tmp_path / "a.csv").write_text("of yesterday")
    assert run_etl("report", "daily_shipments", "--columns", "nothing", "--output", "a.csv").returncode == 2
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.csv", "of yesterday")]
    done = run_etl("report", "daily_shipments", "--output", "absent/a.csv")
    assert done.returncode == 2
    assert "cannot write absent/a.csv: no such file or directory" in done.stderr


# --- refused reports ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["table", "csv", "json", "html"])
def test_an_aggregate_that_was_never_computed_is_not_shown_as_empty(run_etl: RunEtl, format: str) -> None:
    """Its empty table is not shown as if there were no facts: exit code 2, with the command."""
    done = run_etl("report", "daily_shipments", "--format", format)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.endswith("hint: etl precalculate daily_shipments\n")


def test_an_analyst_reports_and_changes_nothing(run_etl: RunEtl, connection: Connection, database_url: str) -> None:
    """A member of etl_analyst gets the report without a right on the ledger; another user gets the grant as a hint."""
    ship(connection, ("S1", "A", "2026-03-01", "1"))
    for role, groups in (("test_reader", "etl_analyst"), ("test_outsider", "")):
        connection.execute(sql.SQL("drop role if exists {}").format(sql.Identifier(role)))
        connection.execute(sql.SQL("create role {} login").format(sql.Identifier(role)))
        if groups:
            connection.execute(sql.SQL("grant {} to {}").format(sql.Identifier(groups), sql.Identifier(role)))
    as_role = database_url.replace(f"//{quote(connection.info.user)}@", "//{}@")
    for arguments in ((), ("daily_shipments",), ("daily_shipments", "--format", "csv"), ("--format", "html")):
        done = run_etl("report", *arguments, env={"ETL_DATABASE_URL": as_role.format("test_reader")})
        assert (done.returncode, done.stderr) == (0, "")
        done = run_etl("report", *arguments, env={"ETL_DATABASE_URL": as_role.format("test_outsider")})
        assert (done.returncode, done.stdout) == (2, "")
        assert "hint: grant etl_analyst to test_outsider" in done.stderr


def test_a_database_without_aggregates_needs_the_migration(run_etl: RunEtl, connection: Connection) -> None:
    """In a database without migrations the exit code is 2, with the command."""
    connection.execute("drop schema analytics cascade")
    for arguments in ((), ("daily_shipments",), ("--format", "html")):
        done = run_etl("report", *arguments)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.endswith("hint: etl db migrate\n")


# --- times outside of Python's calendar -----------------------------------------------------------------------

OUTSIDE = ("9999-12-31T23:59:59-05:00", "0001-01-01T00:00:00+01:00")


@pytest.mark.parametrize(
    "by_hand",
    [
        *("", "infinity"),
        *(
            pytest.param(time, marks=pytest.mark.slow)
            for time in ("-infinity", "0044-03-15 BC", "294276-12-31 23:59:59.5")
        ),
    ],
)
def test_reports_show_times_that_python_cannot_hold(
    run_etl: RunEtl, connection: Connection, tmp_path: Path, by_hand: str
) -> None:
    """Every report in every format shows a year before 1 or after 9999 as the server writes it."""
    shipments = [{"shipment_id": f"S{n}", "carrier": "A", "created_at": time} for n, time in enumerate(OUTSIDE)]
    (tmp_path / "s.json").write_text(json.dumps(shipments))
    assert run_etl("load", "shipments", "s.json").returncode == 0
    if by_hand:
        connection.execute(
            "insert into logistics.shipments (shipment_id, carrier, created_at, delivered_at, etl_run, etl_batch,"
            " etl_place) values ('by hand', 'A', %s, '2026-01-01', 1, 1, 1)",
            [by_hand],
        )
        connection.execute(
            "insert into analytics.daily_shipments"
            " select (jsonb_populate_record(d, jsonb_build_object('day', %s::date))).*"
            " from analytics.daily_shipments d limit 1 on conflict do nothing",
            [by_hand],
        )
    for name in ([], ["daily_shipments"]):
        for ending in ("csv", "json", "parquet", "html"):
            done = run_etl("report", *name, "--format", ending, "--output", f"report.{ending}")
            assert (done.returncode, done.stdout) == (0, ""), done.stderr
        assert run_etl("report", *name).returncode == 0
        for line in (tmp_path / "report.json").read_text().splitlines():
            json.loads(line)
    day = connection.execute("select %s::timestamptz::date::text", [by_hand or OUTSIDE[0]]).fetchone()
    assert day
    assert day[0] in run_etl("report", "daily_shipments").stdout
    assert f'"{day[0]}"' in (tmp_path / "report.json").read_text()
    days = parquet.read_table(tmp_path / "report.parquet").column("day")
    assert days.null_count == ("infinity" in by_hand)
    assert run_etl("precalculate", "daily_shipments", "--verify", "--json").returncode in {0, 1}
    for command in ("runs list --json", "failed list --json", "runs trace logistics.shipments shipment_id=S0"):
        assert run_etl(*command.split()).returncode == 0
