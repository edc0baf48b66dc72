"""The page of the service in a real browser: its views, filters and live updates, and that all of it is accessible.

`make test-browser` installs what these tests need. Without it they are skipped.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.serving.conftest import Open
from tests.support.browsing import AXE, cells, settle, tile, violations
from tests.support.facts import add, refreshed
from tests.support.services import serving
from tests.support.site import Site

DAYS = "created_at=gte.2025-06-02T00:00Z&created_at=lt.2025-06-09T00:00Z"
# Whether a chart has a dot.
DRAWN = "(box) => box.getContext('2d').getImageData(0, 0, box.width, box.height).data.some((value) => value)"
# Where pictures of all views are wanted (`make screenshots`), the folder of them.
PICTURES = os.environ.get("SCREENSHOTS")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def exceptions(demo: Site) -> Iterator[None]:
    """Add an exception to the facts, which have none, and remove all exceptions at the end."""
    event = {"event_id": "EV-PAGE", "exception_code": "WEATHER", "occurred_at": "2025-12-05T10:00Z"}
    add(demo.connection, "tracking_events", **event)
    refreshed(demo.connection, "daily_exceptions")
    yield
    demo.ask("delete from logistics.tracking_events")
    refreshed(demo.connection, "daily_exceptions")


def _places(demo: Site) -> dict[str, tuple[str, str]]:
    """Return each view and each state of it that has parts of its own, with a heading of it, by name."""
    [lane] = demo.ask(
        "select jsonb_build_array(origin_country, origin_city, destination_country, destination_city)::text"
        " from analytics.lane_reliability where count_shipments > 0 order by month desc limit 1"
    )
    carrier = demo.value("select min(carrier) from analytics.carrier_scorecard")
    shipment = demo.value("select min(shipment_id) from logistics.shipments")
    return {
        "overview": ("/", "Shipments per week"),
        "days": ("/?from=2025-12-01&to=2025-12-31", "Shipments per day"),
        "lanes": ("/?view=lanes", "Lanes"),
        "lane": (f"/?{urlencode({'view': 'lanes', 'lane': lane[0]})}", "Late deliveries by month"),
        "carriers": ("/?view=carriers", "Carriers"),
        "carrier": (f"/?{urlencode({'view': 'carriers', 'carrier': carrier})}", f"Months of {carrier}"),
        "warehouses": ("/?view=warehouses", "Warehouses"),
        "exceptions": ("/?view=exceptions", "All exceptions"),
        "runs": ("/?view=runs", "Runs"),
        "run": ("/?view=runs&run=latest", "What is wrong with its records"),
        "facts": (f"/?{urlencode({'view': 'facts', 'where': DAYS})}", "logistics.shipments"),
        "fact": (f"/?{urlencode({'view': 'facts', 'row': f'shipment_id=eq.{shipment}'})}", "Where it came from"),
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 400])
def test_each_view_shows_its_figures_to_everyone(open_page: Open, demo: Site, width: int, scheme: str) -> None:
    """Each view has its tables and no problem, fits its window, and breaks no rule of WCAG 2.2 AA that axe checks."""
    if not AXE.exists():
        pytest.skip("no axe-core: `make test-browser` installs it")
    page = open_page("/healthz", viewport={"width": width, "height": 900}, color_scheme=scheme)
    for name, (address, heading) in _places(demo).items():
        page.goto(address)
        settle(page)
        assert heading in page.get_by_role("heading").all_inner_texts(), name
        assert page.locator(".problem").all_inner_texts() == [], name
        assert name == "fact" or page.locator("tbody tr").count() > 0, name
        assert page.evaluate("document.documentElement.scrollWidth") <= width, name
        assert all(canvas.evaluate(DRAWN) for canvas in page.locator("canvas").all()), name
        assert violations(page) == [], name
        if PICTURES:
            page.screenshot(path=Path(PICTURES) / f"{name}-{width}-{scheme}.png", full_page=True)


def test_a_long_name_leaves_room_for_its_figures(open_page: Open) -> None:
    """A name without a blank makes neither the page wider nor its column wider than half of the table."""
    page, name = open_page("/healthz", viewport={"width": 1400, "height": 900}), "W" * 95

    def lengthen(route: Any) -> None:
        answer = route.fetch()
        route.fulfill(response=answer, body=answer.text().replace("Northway Freight", name))

    page.route("**/v1/aggregates/**", lengthen)
    page.goto("/?view=carriers")
    settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 1400
    assert page.locator("tbody th", has_text=name).first.bounding_box()["width"] < 700


def test_the_description_needs_no_network(open_page: Open) -> None:
    """`/docs` and `/redoc` show each address, from this service alone, and break no rule that axe checks."""
    for path in ("/docs", "/redoc"):
        page = open_page(path)
        assert page.get_by_role("heading", name="GET /v1/facts/{table}").is_visible()
        assert not AXE.exists() or violations(page) == []


def test_the_figures_are_those_of_the_aggregates(open_page: Open, demo: Site) -> None:
    """The overview shows the sums over the days of its address."""
    page = open_page("/?from=2025-03-01&to=2025-06-30")
    settle(page)
    expected = demo.value(
        "select to_char(sum(count_shipments), 'FM999,999') from analytics.daily_shipments"
        " where day between '2025-03-01' and '2025-06-30'"
    )
    assert tile(page, "Shipments") == expected
    kept = demo.value(
        "select to_char(100.0 * sum(count_on_time) / sum(count_due - count_untimed), 'FM990.0')"
        " from analytics.promised_days where day between '2025-03-01' and '2025-06-30'"
    )
    assert tile(page, "Promises kept") == f"{kept} %"
    late = demo.value("select coalesce(sum(count_shipments), 0) from analytics.open_shipments where is_overdue")
    assert tile(page, "Late now") == f"{late}"


def test_newest_months_are_in_no_share(open_page: Open, demo: Site) -> None:
    """Hours of carriers and late shares of months leave out the months of which only fast shipments have arrived."""
    page = open_page("/?view=carriers&from=2025-07-01&to=2025-12-31")
    settle(page)
    rows = cells(page, "Carriers")
    hours = rows[0].index("mean hours late")
    shown = {row[0]: row[hours] for row in rows[1:]}
    expected = demo.ask(
        "select carrier, coalesce(to_char(sum(sum_late_hours) filter (where is_old) / nullif(sum(count_late) filter"
        " (where is_old), 0), 'FM9990.0'), '–') from analytics.carrier_scorecard, lateral (select month + interval"
        " '1 month 30 days' <= newest_event_at::date as is_old from analytics.freshness where aggregate ="
        " 'daily_shipments') as age where month between '2025-07-01' and '2025-12-01' group by carrier"
    )
    assert shown == dict(expected)
    page.goto("/?view=lanes&from=2025-07-01&to=2025-12-31")
    settle(page)
    months = {row[0]: row[2:] for row in cells(page, "Lanes by month")}
    assert months["2025-12"] == ["–", "–", "–"]
    assert "–" not in months["2025-10"]


def test_a_filter_is_in_the_address(open_page: Open) -> None:
    """A filter changes the address; the back button undoes it; another view keeps the days."""
    page = open_page("/")
    settle(page)
    every = tile(page, "Shipments")
    page.get_by_label("Carrier").select_option(index=1)
    page.wait_for_url("**/?carrier=*")
    settle(page)
    assert tile(page, "Shipments") != every
    page.go_back()
    settle(page)
    assert tile(page, "Shipments") == every
    page.get_by_label("From").fill("2025-12-01")
    page.wait_for_url("**/?from=2025-12-01")
    page.get_by_role("link", name="Carriers").click()
    page.wait_for_url("**/?view=carriers&from=2025-12-01")
    settle(page)
    carrier = page.get_by_role("table", name="Carriers", exact=True).get_by_role("link").first
    name = carrier.inner_text()
    carrier.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=f"Promises of {name}").wait_for()


def test_a_lane_leads_to_its_months(open_page: Open) -> None:
    """A lane shows its months alone, with its name, and the way back to all lanes."""
    page = open_page("/?view=lanes")
    settle(page)
    lane = page.get_by_role("table", name="Lanes", exact=True).get_by_role("link").first
    name = lane.inner_text()
    lane.click()
    page.get_by_text("all lanes").wait_for()
    settle(page)
    assert page.get_by_role("table", name="Lanes", exact=True).count() == 0
    assert name in page.locator("main").inner_text()


def test_a_lane_leads_to_lanes_like_it(open_page: Open, demo: Site) -> None:
    """Its neighbours are those of the function, the nearest first; one leads to its own months."""
    # So few shipments have no percentiles.
    demo.ask(
        "update analytics.lane_features set count_transits = 20, p50_transit_hours = 1, p90_transit_hours = 2,"
        " scaled_transit_p50 = scaled_promise, scaled_transit_p90 = scaled_promise returning 1"
    )
    [lane] = demo.ask(
        "select jsonb_build_array(origin_country, origin_city, destination_country, destination_city)::text"
        " from analytics.lane_features order by quarter desc, scaled_promise limit 1"
    )
    expected = demo.ask(
        "select format('%%s (%%s) → %%s (%%s)', origin_city, origin_country, destination_city, destination_country),"
        " distance::text from analytics.similar_lanes(%s, 10)",
        [lane[0]],
    )
    page = open_page(f"/?{urlencode({'view': 'lanes', 'lane': lane[0]})}")
    settle(page)
    assert [tuple(row[:2]) for row in cells(page, "Lanes like this one")[1:]] == expected
    page.get_by_role("table", name="Lanes like this one").get_by_role("link").first.click()
    settle(page)
    assert expected[0][0] in page.locator("main").inner_text()
    assert demo.run("precalculate", "lane_features", "--full").returncode == 0


def test_a_link_saves_all_rows(open_page: Open, demo: Site) -> None:
    """The CSV of a table has each row that is shown."""
    page = open_page("/")
    settle(page)
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download data_quality as CSV").click()
    lines = saved.value.path().read_text().splitlines()
    assert lines[0].startswith("day,dataset,")
    assert len(lines) == 1 + int(demo.value("select count(*) from analytics.data_quality"))


def test_a_refresh_shows_without_a_reload(open_page: Open, demo: Site) -> None:
    """Rows that a refresh changes are on the page soon, and the page is still the same."""
    page = open_page("/?view=exceptions")
    settle(page)
    page.evaluate("window.isTheSame = true")
    code = '<IMG SRC="X" ONERROR="LIVE()">'  # a page that took values for HTML would report an error
    event = {"event_id": "EV-LIVE", "exception_code": code, "occurred_at": "2025-12-06T10:00Z"}
    add(demo.connection, "tracking_events", **event)
    refreshed(demo.connection, "daily_exceptions")
    page.get_by_role("link", name=code, exact=True).wait_for()
    assert page.evaluate("window.isTheSame")


def test_old_data_and_a_lost_service_are_named(open_page: Open, demo: Site) -> None:
    """Data of a day ago is named as old. When the service ends, the page says so and keeps its figures."""
    with serving(demo) as service:
        page = open_page("/healthz", service.client)
        page.clock.install()
        page.goto("/")
        settle(page)
        shown = tile(page, "Shipments")
        assert "old" in page.locator(".freshness").inner_text()
        page.clock.fast_forward("26:30:00")
        page.get_by_text("Data is 26 hours old: no newer load has arrived").wait_for()
        service.running.close()
        page.clock.fast_forward("01:00")
        page.get_by_text("What you see may be old").wait_for()
        assert tile(page, "Shipments") == shown


def test_a_page_comes_back_with_its_service(open_page: Open, demo: Site) -> None:
    """When the service runs again, the page shows what was refreshed in the meantime."""
    with serving(demo) as service:
        port = service.client.base_url.port
        page = open_page("/?view=exceptions", service.client)
        settle(page)
        page.evaluate("window.isTheSame = true")
    event = {"event_id": "EV-BACK", "exception_code": "BACK", "occurred_at": "2025-12-07T10:00Z"}
    add(demo.connection, "tracking_events", **event)
    refreshed(demo.connection, "daily_exceptions")
    page.get_by_text("Not live").or_(page.get_by_text("may be old")).first.wait_for()
    with serving(demo, "--port", f"{port}"):
        page.get_by_role("link", name="BACK", exact=True).wait_for()
        assert page.evaluate("window.isTheSame")


def test_an_empty_database_is_no_error(open_page: Open, site: Site) -> None:
    """Before the first load the page says that nothing was loaded."""
    site.run("precalculate")
    with serving(site) as service:
        page = open_page("/", service.client)
        page.get_by_text("Nothing was loaded yet").first.wait_for()
        settle(page)
        assert page.locator(".problem").all_inner_texts() == []
