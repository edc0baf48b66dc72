import csv
import io
import json
import re
from decimal import Decimal
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from psycopg import sql
from pyarrow import parquet

from etl.precalculation.catalogue import choose
from etl.precalculation.refresh import refresh
from etl.report import charts, display
from etl.report.markup import element
from tests.support.checkout import ROOT
from tests.support.commands import RunEtl
from tests.support.faults import Connection

ELEMENTS = re.findall(
    "[a-z0-9]+",
    "html head meta title style body main h1 h2 p div b span table thead tbody tr th td wbr svg rect text line",
)
HOSTILE = """<script>alert("1")</script>'&amp;</td>\x1b[31m\u202e"""


def ship(connection: Connection, *shipments: tuple[str, str, str, str]) -> None:
    """Add shipments of (id, carrier, day of creation, weight), delivered on time a day later, and refresh all."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into logistics.shipments (shipment_id, carrier, origin_city, destination_city, created_at, "
            "picked_up_at, promised_at, delivered_at, weight_kg, etl_run, etl_batch, etl_place) values "
            "(%s, %s, %s, 'Zürich', %s, %s::date, %s::date + 3, %s::date + 1, %s, 1, 0, 1)",
            [(name, carrier, carrier, day, day, day, day, weight) for name, carrier, day, weight in shipments],
        )
    for aggregate in choose([]):
        refresh(connection, aggregate, run=None)


@pytest.fixture
def three(connection: Connection) -> None:
    """Give two days of three shipments, one of them with a weight of many digits."""
    ship(
        connection,
        ("S1", 'Żubr, "Express"\nŁódź', "2026-03-01", "12345678901234567890.123456789"),
        ("S2", "A", "2026-03-02", "0.10"),
        ("S3", "A", "2026-03-02", "2"),
    )


def rows_of(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    return connection.execute(query.encode()).fetchall()


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


# --- html ---------------------------------------------------------------------------------------------------


class Page(HTMLParser):
    """A page as a browser reads it: its elements, their attributes and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in {"meta", "wbr"}:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Check that elements end in the reverse order of their beginning."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text."""
        self.text += data


def page_of(run_etl: RunEtl, *arguments: str) -> Page:
    """Return the page of a report."""
    done = run_etl("report", *arguments, "--format", "html")
    assert (done.returncode, done.stderr) == (0, "")
    return Page(done.stdout)


def test_a_page_opens_without_a_network(run_etl: RunEtl, connection: Connection) -> None:
    """The page of all aggregates contains its charts, and names nothing that a browser would fetch or run."""
    ship(connection, *((f"S{day}", "A", f"2026-03-{day:02d}", "1") for day in range(1, 13)))
    page = page_of(run_etl)
    assert page.tags.count("svg") == 3
    assert set(page.tags) <= set(ELEMENTS)
    names = {name for name, _ in page.attributes}
    assert not names & {"src", "href", "xlink:href", "style", "srcset", "action", "data"}
    assert not [name for name in names if name.startswith("on")]
    assert "url(" not in page.text
    assert "@import" not in page.text


def test_a_page_shows_freshness_volume_punctuality_and_lanes(run_etl: RunEtl, connection: Connection) -> None:
    """The freshness comes first; the figures are those of the aggregates."""
    ship(connection, *((f"S{day}", "A", f"2026-03-{day:02d}", "1") for day in range(1, 13)))
    text = page_of(run_etl).text
    headings = [
        "Every aggregate equals its facts: newest load unknown, newest event 2026-03-12 00:00 UTC.",
        "Freshness",
        "Shipments per day",
        "On-time share per carrier",
        "Slowest lanes",
    ]
    places = [text.index(heading) for heading in headings]
    assert places == sorted(places)
    for expected in ("Thu 2026-03-12: 1", "Sun 2025-12-14", "100.0 % of 12", "24.0 h, 12 transits", "lane_reliability"):
        assert expected in text


def test_a_tile_is_of_all_carriers_and_a_chart_says_how_many_it_shows(run_etl: RunEtl, connection: Connection) -> None:
    """The chart of the largest twelve carriers is not the base of the tile; what is still open is named beside both."""
    connection.execute(
        """
        insert into logistics.shipments
            (shipment_id, carrier, created_at, promised_at, delivered_at, etl_run, etl_batch, etl_place)
        select carrier || '-' || number, carrier, '2026-03-01', '2026-03-05', '2026-03-04'::timestamptz + late, 1, 0, 1
        from (
            select 'Z' || number, interval '0 days', 2 from generate_series(0, 11) as number
            union all
            select 'Y' || number, interval '2 days', 1 from generate_series(0, 29) as number
        ) as carriers (carrier, late, count_shipments)
        cross join lateral generate_series(1, count_shipments) as number;
        insert into logistics.shipments
            (shipment_id, carrier, created_at, promised_at, status, etl_run, etl_batch, etl_place)
        select 'open-' || number, 'Z1', '2026-03-01', '2026-03-05', 'in_transit', 1, 0, 1
        from generate_series(1, 3) as number;
        """
    )
    assert run_etl("precalculate").returncode == 0
    text = page_of(run_etl).text
    assert (
        "44.4 %delivered on time, of 54 created in twelve months; by the first promise 44.4 %; 3 are still open" in text
    )
    assert "the largest carriers first, 12 of 42." in text
    assert "100.0 % of 2, 3 open" in text
    assert "shipments created in the 91 days to 2026-03-01 (UTC)" in text


def test_values_of_the_data_remain_text(run_etl: RunEtl, connection: Connection) -> None:
    """A carrier named like an element becomes no element in a chart, a table or a tooltip."""
    ship(connection, *((f"S{day}", HOSTILE, f"2026-03-{day:02d}", "1") for day in range(1, 13)))
    for arguments in ((), ("carrier_performance",), ("lane_performance",)):
        page = page_of(run_etl, *arguments)
        assert "script" not in page.tags
        assert """<script>alert("1")</script>'&amp;</td>""" in page.text
        assert not set(page.text) & {"\x1b", "\u202e"}
        assert not [value for _, value in page.attributes if set(value) & {"\x1b", "\u202e"}]


def test_elements_escape_text() -> None:
    """Text and attributes are escaped once, nested elements are not, and no document loses its form."""
    inner = element("b", "<&>", title="\"x\" & 'y'")
    assert element("p", inner, "\x00\x1b]") == (
        '<p><b title="&quot;x&quot; &amp; &#x27;y&#x27;">&lt;&amp;&gt;</b>\ufffd\ufffd]</p>'
    )


def test_a_long_name_is_shown_in_full() -> None:
    """A chart cuts no name, because names are text that breaks into lines."""
    assert f">{'n' * 200}</span>" in charts.bars("Chart", [("n" * 200, 1.0, "one")], 1.0)


def test_a_page_of_an_empty_database_says_so(run_etl: RunEtl) -> None:
    """Before the first load the page names the command to run, and has no chart."""
    page = page_of(run_etl)
    assert "No aggregate was ever computed (etl precalculate)." in page.text
    assert "svg" not in page.tags


def test_a_page_of_an_aggregate_explains_its_columns(run_etl: RunEtl, connection: Connection) -> None:
    """The page of one aggregate has its rows, their number, and an explanation of each column."""
    ship(connection, ("S1", "A", "2026-03-01", "1"), ("S2", "A", "2026-03-02", "1"))
    page = page_of(run_etl, "daily_shipments", "--limit", "1")
    assert "The first 1 of 2 rows." in page.text
    assert "weight. Unit: kg, as in the data." in page.text
    assert "2026-03-01" not in page.text
    assert "2 rows." in page_of(run_etl, "daily_shipments").text


def test_a_report_begins_with_pending_and_missing_data(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """It names the aggregates that are pending or were never computed, and the records in the failed store."""
    records = [{"vehicle_id": "V1"}, {"vehicle_id": None}]
    (tmp_path / "feed.ndjson").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    assert run_etl("load", "vehicles", "feed.ndjson").returncode == 1
    (chosen,) = choose(["daily_shipments"])
    refresh(connection, chosen, run=None)
    text = page_of(run_etl).text
    assert "Behind their facts" not in text
    assert "Never computed: carrier_performance, carrier_scorecard, " in text
    assert "Rejected records: 1 or more are in the failed store (etl failed list)." in text
    connection.execute(
        "insert into logistics.shipments (shipment_id, created_at, etl_run, etl_batch, etl_place) "
        "values ('S1', '2026-03-01', 1, 0, 1)"
    )
    assert "Behind their facts: daily_shipments, data_quality (etl precalculate)." in page_of(run_etl).text
    done = run_etl("report", "vehicle_days")
    ((through,),) = rows_of(
        connection, "select facts_through from analytics.freshness where aggregate = 'vehicle_days'"
    )
    title = f"vehicle_days; complete to {through:%Y-%m-%d %H:%M} UTC; rejected records: 1 (etl failed list)\n"
    assert done.stdout.startswith(title)
    assert "Pending buckets" not in page_of(run_etl, "vehicle_days").text
    assert "Pending buckets: 1 (etl precalculate)." in page_of(run_etl, "data_quality").text


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
