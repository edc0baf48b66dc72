"""The page of `etl report` as a file: what it shows, and that it needs and runs nothing from elsewhere."""

import base64
import hashlib
import json
import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path

import pytest

from etl.precalculation.catalogue import choose
from etl.precalculation.refresh import refresh
from etl.report import answers, display, parts
from etl.report.periods import Periods
from etl.report.readers import Snapshot
from tests.support.commands import RunEtl
from tests.support.facts import add
from tests.support.faults import Connection
from tests.support.reports import HOSTILE, page_of, rows_of, ship

TWELVE = [(f"S{day}", "A", f"2026-03-{day:02d}", "1") for day in range(1, 13)]


def test_a_page_opens_without_a_network(run_etl: RunEtl, connection: Connection) -> None:
    """A page names nothing that a browser would fetch, and its browser may run only the script that is in it."""
    ship(connection, *TWELVE)
    for arguments in ((), ("daily_shipments",)):
        page = page_of(run_etl, *arguments)
        names = {name for name, _ in page.attributes}
        assert not names & {"src", "href", "xlink:href", "style", "srcset", "action", "data"}
        assert not [name for name in names if name.startswith("on")]
        [policy] = [value for name, value in page.attributes if name == "content" and "default-src" in value]
        hashes = re.findall(r"'sha256-([^']+)'", policy)
        script = page.scripts[-1]
        assert base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() in hashes
        assert policy.startswith("default-src 'none';")
        assert "unsafe" not in policy
        done = run_etl("report", *arguments, "--format", "html").stdout
        assert not re.findall(r"url\(|@import|https?://(?!github\.com/leeoniya|www\.w3\.org)", done)


def test_a_page_shows_each_section_with_its_figures(run_etl: RunEtl, connection: Connection) -> None:
    """Freshness comes first, then the period with its dates; each chart has its figures, and a table with the same.

    One shipment of a wrong year does not make the data look old. Figures before the first data are not shown as 0.
    """
    ship(connection, *TWELVE, ("S0", "A", "1970-01-01", "1"))
    page = page_of(run_etl)
    places = [
        page.text.index(heading)
        for heading in (
            "Every aggregate equals its facts.",
            "Data to 2026-03-12 00:00 UTC",
            "Period: 2026-03-01 to 2026-03-12, 12 days (UTC).",
            "No 28 days before are known: the data begin on 2026-03-01.",
            "Left out of the periods: 1 shipment created long before, from 1970-01-01.",
            "Promises kept",
        )
    ]
    assert places == sorted(places)
    assert page.headings == [
        *(
            "Promises kept",
            "Open and late now",
            "Lanes",
            "Hubs",
            "Exceptions",
            "Cost per kg",
            "Shipments per day",
            "Warehouses",
        ),
        *("Vehicles", "How fresh each table is"),
    ]
    assert set(page.charts) == {
        "Promises kept, all carriers",
        "Shipments created per day",
        "Departures, all warehouses",
    }
    assert sorted(value for name, value in page.attributes if name == "data-chart") == sorted(page.charts)
    days = page.charts["Shipments created per day"]
    assert (days["times"][0], days["times"][-1], days["panels"][0]["values"]) == ("2026-03-01", "2026-03-12", [1] * 12)
    assert page.tables["Figures: Shipments created per day"][-1] == ["2026-03-12", "1"]
    assert page.charts["Promises kept, all carriers"]["youngFrom"] == "2026-03-09"
    assert "The last week is marked: it has 4 days only." in page.text
    assert "No shipment is open." in page.text
    heads = [cell for table in page.tables.values() for cell in table[0]]
    assert [head for head in heads if "before" in head] == []


def test_tiles_are_of_all_and_have_the_period_before(run_etl: RunEtl, connection: Connection) -> None:
    """A chart of twelve carriers of 42 says so and is no base of a tile, which has the figure of the period before.

    A promise of a wrong year has no hours late, and unknown weights are not 0.
    """
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
            (shipment_id, carrier, created_at, promised_at, status, updated_at, etl_run, etl_batch, etl_place)
        select 'open-' || number, 'Z1', '2026-03-06', '2026-03-05', 'in_transit', '2026-03-07', 1, 0, 1
        from generate_series(1, 3) as number;
        insert into logistics.shipments (shipment_id, carrier, created_at, promised_at, etl_run, etl_batch, etl_place)
        select 'before-' || number, 'Z1', '2026-02-01', '2026-02-02', 1, 0, 1 from generate_series(1, 3) as number;
        insert into logistics.shipments (shipment_id, created_at, etl_run, etl_batch, etl_place)
        values ('first', '2026-01-01', 1, 0, 1);
        insert into logistics.shipments
            (shipment_id, carrier, origin_warehouse, created_at, picked_up_at, promised_at, etl_run, etl_batch,
            etl_place)
        values ('wrong', 'Z1', 'W', '2026-03-06', '2026-03-06', '1926-03-09', 1, 0, 1);
        """
    )
    assert run_etl("precalculate").returncode == 0
    page = page_of(run_etl)
    assert "Period: 2026-02-07 to 2026-03-06, 28 days (UTC). Before: 2026-01-10 to 2026-02-06." in page.text
    assert "58created in the period3 in the 28 days before: 1,833.3 % more now" in page.text
    assert "42.1 %of 57 promised in the period; open ones count as not kept0.0 % in the 28 days before" in page.text
    assert "7of 8 open, 420.0 hours late on average" in page.text
    assert "Of 1 late, the promise is more than 90 days before the creation: no hours count." in page.text
    assert page.text.count("12 of 42 carriers, those with most promises.") == 2
    assert len(page.charts["Promises kept by carrier"]["panels"]) == 12
    table = page.tables["Promises of 2026-02-07 to 2026-03-06 by carrier"]
    assert table[0][:4] == ["carrier", "kept", "kept before", "promised"]
    assert table[1][:4] == ["Z1", "40.0 %", "0.0 %", "5"]
    assert page.tables["Open shipments by carrier"][1][:4] == ["Z1", "7", "420.0", "2,520"]
    late = page.tables["Late now"]
    assert [row[0] for row in late[1:]] == [
        *(f"{name}-{number}" for name in ("before", "open") for number in (1, 2, 3)),
        "wrong",
    ]
    [warehouses] = [
        table for caption, table in page.tables.items() if "by warehouse" in caption and table[0][0] == "warehouse"
    ]
    assert warehouses[1][:4] == ["W", "1", "0", "–"]
    assert late[1][1:4] == ["792.0", "Z1", "2026-02-02 00:00"]


def test_lanes_have_percentiles_of_months_that_are_old_enough(run_etl: RunEtl, connection: Connection) -> None:
    """Hours are from p50 to p90 of all transits of the lane in the old months; later ones are left out."""
    connection.execute(
        """
        insert into logistics.shipments (shipment_id, carrier, origin_country, origin_city, destination_country,
            destination_city, created_at, picked_up_at, promised_at, delivered_at, etl_run, etl_batch, etl_place)
        select 'S' || month || number, 'A', 'DE', 'Köln', 'IT', repeat('n', 100), month, month,
            month + interval '10 hours', month + number * interval '1 hour', 1, 0, 1
        from unnest(array['2026-01-05', '2026-02-05', '2026-03-31']::timestamptz[]) as month
        cross join generate_series(1, 11) as number
        """
    )
    assert run_etl("precalculate").returncode == 0
    page = page_of(run_etl)
    name = f"Köln (DE) → {'n' * 100} (IT)"
    assert page.charts["Transit by lane"]["rows"] == [[name, 6.0, 10.0]]
    assert page.tables["Hours by lane"][1] == [name, "6.0", "10.0", "22", "2", "9.1 %"]
    assert "Shipments created in 2026-01 to 2026-02; later months are left out" in page.text
    connection.execute(
        """
        insert into logistics.shipments (shipment_id, carrier, origin_city, destination_city, created_at, picked_up_at,
            promised_at, delivered_at, etl_run, etl_batch, etl_place)
        select concat_ws('-', 'L', lane, number), 'A', 'Köln', lane, '2026-02-01', '2026-02-01', '2026-02-02',
            '2026-02-01'::timestamptz + number * interval '1 hour', 1, 0, 1
        from generate_series(1, 13) as lane cross join generate_series(1, 20) as number
        """
    )
    assert run_etl("precalculate", "lane_reliability").returncode == 0
    page = page_of(run_etl)
    assert "Shipments created in 2026-02; later" in page.text
    assert page.text.count("12 of 13 lanes with twenty transits, those with most late deliveries.") == 2
    assert {tuple(row[1:]) for row in page.tables["Hours by lane"][1:]} == {("10.5", "18.1", "20", "0", "0.0 %")}


def test_exceptions_are_of_codes_and_carriers_and_stays_of_hubs(run_etl: RunEtl, connection: Connection) -> None:
    """Exceptions are counted by code, by carrier and by both; a hub with twenty stays has its percentiles."""
    connection.execute(
        """
        insert into logistics.shipments (shipment_id, carrier, created_at, etl_run, etl_batch, etl_place)
        select 'S' || number, 'A', '2026-02-05'::timestamptz, 1, 0, 1 from generate_series(1, 20) as number
        union all select 'last', 'A', '2026-03-31', 1, 0, 1;
        insert into logistics.tracking_events (event_id, shipment_id, event_code, exception_code, location_code,
            occurred_at, etl_run, etl_batch, etl_place)
        select code || number, 'S' || number, code, case when code = 'EXCEPTION' then 'WEATHER' end, 'HUB',
            '2026-03-30'::timestamptz + hours * number * interval '1 hour', 1, 0, 1
        from (values ('HUB_ARRIVED', 0), ('HUB_DEPARTED', 1), ('EXCEPTION', 0)) as events (code, hours)
        cross join generate_series(1, 20) as number
        """
    )
    assert run_etl("precalculate").returncode == 0
    page = page_of(run_etl)
    assert page.charts["Exceptions by code"]["panels"][0]["name"] == "WEATHER"
    assert [row for name, rows in page.tables.items() if "by carrier and code" in name for row in rows[1:]] == [
        ["A", "WEATHER", "20"]
    ]
    assert page.charts["Stay by hub"]["rows"] == [["HUB", 10.5, 18.1]]


def test_values_of_the_data_remain_text(run_etl: RunEtl, connection: Connection) -> None:
    """A carrier named like an element becomes no element in a chart, a table or a script."""
    ship(connection, *((f"S{day}", HOSTILE, f"2026-03-{day:02d}", "1") for day in range(2, 13)), TWELVE[0])
    for arguments in ((), ("carrier_performance",), ("lane_performance",)):
        page = page_of(run_etl, *arguments)
        assert len(page.scripts) == 1 + (not arguments)
        assert """<script>alert("1")</script>'&amp;</td>""" in page.text
        assert not set(page.text) & {"\x1b", "\u202e"}
        assert not [value for _, value in page.attributes if set(value) & {"\x1b", "\u202e"}]
        if not arguments:
            assert page.charts["Promises kept by carrier"]["panels"][0]["name"] == display.plain(HOSTILE)


def test_a_page_of_an_empty_database_says_so(run_etl: RunEtl, connection: Connection) -> None:
    """Before the first load the page says what to do, without a warning; without a chart it says why."""
    page = page_of(run_etl)
    assert "Nothing is loaded so far (etl load)." in page.text
    assert "freshness stale" not in [value for _, value in page.attributes]
    assert page.charts == {}
    add(connection, "vehicles", vehicle_id="V1")
    page = page_of(run_etl)
    assert "No aggregate was ever computed (etl precalculate)." in page.text
    assert run_etl("precalculate").returncode == 0
    page = page_of(run_etl)
    assert "There are no figures, because no shipment with a time of creation is loaded." in page.text
    assert page.charts == {}


def test_a_page_of_an_aggregate_explains_its_columns(run_etl: RunEtl, connection: Connection) -> None:
    """The page of one aggregate has its rows, their number, and an explanation of each column."""
    ship(connection, ("S1", "A", "2026-03-01", "1"), ("S2", "A", "2026-03-02", "1"))
    page = page_of(run_etl, "daily_shipments", "--limit", "1")
    assert "The first 1 of 2 rows." in page.text
    assert "weight. Unit: kg, as in the data." in page.text
    assert "2026-03-01" not in page.text
    assert "2 rows." in page_of(run_etl, "daily_shipments").text


def test_a_report_begins_with_pending_and_missing_data(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """It names what is pending or was never computed, and the records in the failed store; no facts are no fault."""
    records = [{"vehicle_id": "V1"}, {"vehicle_id": None}]
    (tmp_path / "feed.ndjson").write_text("".join(f"{json.dumps(record)}\n" for record in records))
    assert run_etl("load", "vehicles", "feed.ndjson").returncode == 1
    (chosen,) = choose(["daily_shipments"])
    refresh(connection, chosen, run=None)
    text = page_of(run_etl).text
    assert "Behind their facts" not in text
    assert "Never computed" not in text
    assert "Without facts so far: carrier_performance, carrier_scorecard, " in text
    assert "Rejected records: 1 or more are in the failed store (etl failed list)." in text
    connection.execute(
        "insert into logistics.shipments (shipment_id, created_at, etl_run, etl_batch, etl_place) "
        "values ('S1', '2026-03-01', 1, 0, 1)"
    )
    text = page_of(run_etl).text
    # The load refreshed data_quality, and what it is computed from.
    stale = ["daily_shipments", "data_quality", "shipment_batches", "shipment_names", "shipment_orphans"]
    assert f"Behind their facts: {', '.join(stale)} (etl precalculate)." in text
    assert "Never computed: carrier_performance, carrier_scorecard, " in text
    done = run_etl("report", "vehicle_days")
    ((through,),) = rows_of(
        connection, "select facts_through from analytics.freshness where aggregate = 'vehicle_days'"
    )
    title = f"vehicle_days; complete to {through:%Y-%m-%d %H:%M} UTC; rejected records: 1 (etl failed list)\n"
    assert done.stdout.startswith(title)
    assert "Pending buckets" not in page_of(run_etl, "vehicle_days").text
    assert "Pending buckets: 1 (etl precalculate)." in page_of(run_etl, "data_quality").text


def test_a_page_says_how_old_its_data_are(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """The newest load has an age, which marks the page from a day on; the age of the data alone does not."""
    (tmp_path / "s.json").write_text(json.dumps([{"shipment_id": "S1", "created_at": "2026-03-01T06:00Z"}]))
    assert run_etl("load", "shipments", "s.json").returncode == 0
    page = page_of(run_etl)
    assert re.search(r"Data to 2026-03-01 06:00 UTC, [\d,]+ (?:hours|days) old; newest load ", page.text)
    assert "less than a minute old." in page.text
    assert "freshness stale" not in [value for _, value in page.attributes]
    connection.execute("update etl.refreshes set facts_through = facts_through - interval '26 hours'")
    page = page_of(run_etl)
    assert "26 hours old." in page.text
    assert "freshness stale" in [value for _, value in page.attributes]


def test_a_day_that_is_not_over_is_left_out(connection: Connection) -> None:
    """A period ends with the last whole day; data without times of day are all of midnight.

    It does not begin with a few shipments long before all others.
    """
    ship(connection, ("S1", "A", "2026-03-01", "1"), ("S2", "A", "2026-03-02 05:59", "1"))
    for time, last in (("05:59", 1), ("23:30", 2), ("00:00", 2)):
        connection.execute("update etl.refreshes set newest_event_at = %s", [f"2026-03-02 {time}+00"])
        assert answers.read_periods(Snapshot(connection)) == Periods(begin=date(2026, 3, 1), last=date(2026, 3, last))
    # So many shipments of the first day are a begin, or have a wrong date.
    for day, others, begin in (
        ("2026-02-01", 98, date(2026, 2, 1)),
        ("2026-02-01", 99, date(2026, 3, 2)),
        ("2026-02-02", 99, date(2026, 2, 2)),
        ("2025-02-28", 1, date(2025, 2, 28)),
        ("2025-02-28", 2, date(2026, 3, 2)),
    ):
        connection.execute("update analytics.daily_shipments set day = %s where day < '2026-03-02'", [day])
        connection.execute(
            "update analytics.daily_shipments set count_shipments = %s where day = '2026-03-02'", [others]
        )
        found = answers.read_periods(Snapshot(connection))
        assert found is not None
        assert (found.begin, found.count_earlier) == (begin, int(f"{begin}" != day))


def test_periods_are_by_the_last_day() -> None:
    """Weeks begin on Monday, months that are young or not over are named, and nothing is before the first data."""
    long = Periods(begin=date(2024, 1, 1), last=date(2026, 3, 12))
    assert (long.first, long.first_before, long.last_before) == (
        date(2026, 2, 13),
        date(2026, 1, 16),
        date(2026, 2, 12),
    )
    assert (len(long.weeks), long.weeks[-1], long.unfinished_week) == (13, date(2026, 3, 9), date(2026, 3, 9))
    assert (long.month, long.unfinished_month, long.mature_month) == (
        date(2026, 2, 1),
        date(2026, 3, 1),
        date(2026, 1, 1),
    )
    assert (len(long.months), long.months[0], long.is_young, long.has_before) == (14, date(2025, 2, 1), False, True)
    whole = Periods(begin=date(2024, 1, 1), last=date(2026, 2, 28))
    assert (whole.month, whole.unfinished_month, len(whole.months)) == (date(2026, 2, 1), None, 13)
    assert Periods(begin=date(2024, 1, 1), last=date(2026, 3, 15)).unfinished_week is None
    young = Periods(begin=date(2026, 3, 2), last=date(2026, 3, 12))
    assert (young.month, young.mature_month, young.is_young) == (date(2026, 3, 1), date(2026, 3, 1), True)
    assert (young.weeks, len(young.days)) == ([date(2026, 3, 2), date(2026, 3, 9)], 11)
    for back in range(800):
        last = long.last - timedelta(days=back)
        mature = Periods(begin=date(2020, 1, 1), last=last).mature_month
        assert timedelta(days=30) <= last - (mature + timedelta(days=32)).replace(day=1) < timedelta(days=62)


def test_figures_are_written_for_people() -> None:
    """Only what is all or nothing is 100 or 0 %, a missing figure is a dash, and a cut names what it is of."""
    assert [display.shown(value, "percent") for value in (0, 0.00001, 0.5, 0.99999, 1, None)] == [
        *("0.0 %", "0.1 %", "50.0 %", "99.9 %", "100.0 %", "–"),
    ]
    assert [display.change(*pair) for pair in ((105, 100), (95, 100), (100, 100), (1, 0), (None, 1))] == [
        *("5.0 % more now", "5.0 % less now", "the same", "", ""),
    ]
    assert [display.age(60 * minutes) for minutes in (0.5, 1, 59, 60, 71 * 60, 72 * 60)] == [
        *("less than a minute", "1 minute", "59 minutes", "1 hour", "71 hours", "3 days"),
    ]
    rows = [{"carrier": "A", "count_all": 61}, {"carrier": "B", "count_all": 61}]
    assert parts.cut(rows, "carriers", "the largest ones") == "2 of 61 carriers, the largest ones."
    assert parts.cut(rows[:1] * 61, "carriers") == "All 61 carriers."


@pytest.mark.slow
def test_a_terminal_needs_no_templates() -> None:
    """The template engine is imported for a page only."""
    code = "import sys, etl.cli.report; sys.exit('jinja2' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
