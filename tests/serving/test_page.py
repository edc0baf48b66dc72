"""The page of the service in a real browser: its views, filters and live updates, and that all of it is accessible.

`make test-browser` installs what these tests need. Without it they are skipped.
"""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.support.checkout import ROOT
from tests.support.facts import add, refreshed
from tests.support.services import RunningService, serving
from tests.support.site import Site

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]
VIEWS = {
    "overview": "Shipments per day",
    "lanes": "Lanes",
    "carriers": "Carriers",
    "warehouses": "Warehouses",
    "exceptions": "All exceptions",
    "runs": "Runs",
    "records": "Records",
}

playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: `make test-browser` installs it")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: `make test-browser` installs it"),
]

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Give a browser."""
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture(scope="module", autouse=True)
def exceptions(demo: Site) -> Iterator[None]:
    """Add an exception to the facts, which have none, and remove all exceptions at the end."""
    event = {"event_id": "EV-PAGE", "exception_code": "WEATHER", "occurred_at": "2025-12-05T10:00Z"}
    add(demo.connection, "tracking_events", **event)
    refreshed(demo.connection, "daily_exceptions")
    yield
    demo.ask("delete from logistics.tracking_events")
    refreshed(demo.connection, "daily_exceptions")


@pytest.fixture
def open_page(browser: Any, service: RunningService) -> Iterator[Open]:
    """Give a function that opens an address. A page may log no error, and may ask no other server."""
    contexts: list[Any] = []
    faults: list[str] = []

    def open_page(address: str = "/", base: httpx.Client = service.client, **options: Any) -> Any:
        context = browser.new_context(base_url=str(base.base_url), **options)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if _is_fault(message) else None)
        page.on("request", lambda request: faults.append(request.url) if _is_elsewhere(request.url, base) else None)
        page.goto(address)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert faults == []


def _is_fault(message: Any) -> bool:
    # The browser reports each answer that is no success; the page shows it.
    return message.type in {"error", "warning"} and "Failed to load resource" not in message.text


def _is_elsewhere(url: str, client: httpx.Client) -> bool:
    return not url.startswith((f"{client.base_url}", "data:", "blob:"))


def _settle(page: Any) -> None:
    """Wait until all answers of a view are there."""
    page.get_by_role("heading", level=1).wait_for()
    page.locator("section.panel, form.filters").first.wait_for()
    page.locator("[aria-busy=true]").first.wait_for(state="detached")


def _tile(page: Any, name: str) -> str:
    return str(page.locator(".tile", has_text=name).locator("strong").inner_text())


def _cells(page: Any, table: str) -> list[list[str]]:
    """Return the texts of a table, its head first."""
    script = "(table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim()))"
    return list(page.get_by_role("table", name=table, exact=True).evaluate(script))


@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (400, "dark")])
def test_each_view_shows_its_figures_to_everyone(open_page: Open, width: int, scheme: str) -> None:
    """Each view has its tables and no problem, fits its window, and breaks no rule of WCAG 2.2 AA that axe checks."""
    if not AXE.exists():
        pytest.skip("no axe-core: `make test-browser` installs it")
    for view, heading in VIEWS.items():
        page = open_page(f"/?view={view}", viewport={"width": width, "height": 900}, color_scheme=scheme)
        _settle(page)
        assert heading in page.get_by_role("heading").all_inner_texts(), view
        assert page.locator(".problem").all_inner_texts() == [], view
        assert view == "records" or page.locator("tbody tr").count() > 0, view
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view
        run = f"axe.run({{runOnly: {json.dumps(RULES)}}}).then((found) => JSON.stringify(found))"
        answer = page.context.new_cdp_session(page).send(
            "Runtime.evaluate",
            {"expression": f"{AXE.read_text()};{run}", "awaitPromise": True, "returnByValue": True},
        )
        found = json.loads(answer["result"]["value"])
        assert len(found["passes"]) > 15, view
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in found["violations"]] == [], view


def test_the_figures_are_those_of_the_aggregates(open_page: Open, demo: Site) -> None:
    """The overview shows the sums over the days of its address."""
    page = open_page("/?from=2025-03-01&to=2025-06-30")
    _settle(page)
    expected = demo.value(
        "select to_char(sum(count_shipments), 'FM999,999') from analytics.daily_shipments"
        " where day between '2025-03-01' and '2025-06-30'"
    )
    assert _tile(page, "Shipments") == expected
    kept = demo.value(
        "select to_char(100.0 * sum(count_on_time) / sum(count_due - count_untimed), 'FM990.0')"
        " from analytics.promised_days where day between '2025-03-01' and '2025-06-30'"
    )
    assert _tile(page, "Promises kept") == f"{kept} %"
    late = demo.value("select sum(count_shipments) from analytics.open_shipments where is_overdue")
    assert _tile(page, "Late now") == f"{late}"


def test_newest_months_are_in_no_share(open_page: Open, demo: Site) -> None:
    """Hours of carriers and late shares of months leave out the months of which only fast shipments have arrived."""
    page = open_page("/?view=carriers&from=2025-07-01&to=2025-12-31")
    _settle(page)
    rows = _cells(page, "Carriers")
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
    _settle(page)
    months = {row[0]: row[2:] for row in _cells(page, "Lanes by month")}
    assert months["2025-12"] == ["–", "–", "–"]
    assert "–" not in months["2025-10"]


def test_a_filter_is_in_the_address_and_a_bar_leads_to_records(open_page: Open) -> None:
    """A filter changes the address; the back button undoes it; a carrier leads to its records."""
    page = open_page("/")
    _settle(page)
    every = _tile(page, "Shipments")
    page.get_by_label("Carrier").select_option(index=1)
    page.wait_for_url("**/?carrier=*")
    _settle(page)
    assert _tile(page, "Shipments") != every
    page.go_back()
    _settle(page)
    assert _tile(page, "Shipments") == every
    page.get_by_label("From").fill("2025-12-01")
    page.wait_for_url("**/?from=2025-12-01")
    page.get_by_role("link", name="Carriers").click()
    page.wait_for_url("**/?view=carriers&from=2025-12-01")
    _settle(page)
    carrier = page.get_by_role("table", name="Carriers", exact=True).get_by_role("link").first
    name = carrier.inner_text()
    carrier.focus()
    page.keyboard.press("Enter")
    page.get_by_role("heading", name=f"Promises of {name}").wait_for()
    page.get_by_role("link", name="Its records").click()
    _settle(page)
    row = page.get_by_role("table", name="Records").locator("tbody tr").first.inner_text()
    assert re.fullmatch(r"[\d,]+\s+[\d,]+\s+shipments\.json\s.*", row, re.DOTALL)


def test_a_lane_leads_to_its_months_and_records(open_page: Open) -> None:
    """A lane shows its months alone, and the records that have its four names."""
    page = open_page("/?view=lanes")
    _settle(page)
    lane = page.get_by_role("table", name="Lanes", exact=True).get_by_role("link").first
    name = lane.inner_text()
    lane.click()
    page.get_by_text("all lanes").wait_for()
    _settle(page)
    assert page.get_by_role("table", name="Lanes", exact=True).count() == 0
    assert name in page.locator("main").inner_text()
    page.get_by_role("link", name="Its records").click()
    _settle(page)
    assert "origin_city is" in page.get_by_role("heading", level=2).inner_text()
    assert page.get_by_role("table", name="Records").locator("tbody tr").count() > 0


def test_a_chart_leads_to_its_day_and_a_link_saves_all_rows(open_page: Open, demo: Site) -> None:
    """A click on a day of a chart shows the day alone; the CSV has each row that is shown."""
    page = open_page("/?from=2025-05-01&to=2025-06-30")
    _settle(page)
    page.locator(".chart .u-over").first.click()
    page.wait_for_url(re.compile(r"from=(2025-0[56]-\d\d)&to=\1"))
    _settle(page)
    page.goto("/")
    _settle(page)
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download data_quality as CSV").click()
    lines = saved.value.path().read_text().splitlines()
    assert lines[0].startswith("day,dataset,")
    assert len(lines) == 1 + int(demo.value("select count(*) from analytics.data_quality"))


def test_a_refresh_shows_without_a_reload(open_page: Open, demo: Site) -> None:
    """Rows that a refresh changes are on the page soon, and the page is still the same."""
    page = open_page("/?view=exceptions")
    _settle(page)
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
        _settle(page)
        shown = _tile(page, "Shipments")
        assert "old" in page.locator(".freshness").inner_text()
        page.clock.fast_forward("26:30:00")
        page.get_by_text("Data is 26 hours old: no newer load has arrived").wait_for()
        service.running.close()
        page.clock.fast_forward("01:00")
        page.get_by_text("What you see may be old").wait_for()
        assert _tile(page, "Shipments") == shown


def test_a_page_comes_back_with_its_service(open_page: Open, demo: Site) -> None:
    """When the service runs again, the page shows what was refreshed in the meantime."""
    with serving(demo) as service:
        port = service.client.base_url.port
        page = open_page("/?view=exceptions", service.client)
        _settle(page)
        page.evaluate("window.isTheSame = true")
    event = {"event_id": "EV-BACK", "exception_code": "BACK", "occurred_at": "2025-12-07T10:00Z"}
    add(demo.connection, "tracking_events", **event)
    refreshed(demo.connection, "daily_exceptions")
    page.get_by_text("Not live").or_(page.get_by_text("may be old")).first.wait_for()
    with serving(demo, "--port", f"{port}"):
        page.get_by_role("link", name="BACK", exact=True).wait_for()
        assert page.evaluate("window.isTheSame")


def test_a_key_opens_the_page(open_page: Open, demo: Site) -> None:
    """Where keys are needed the page asks for one, refuses a wrong one, and an analyst sees figures but no runs."""
    [made] = demo.run("key", "create", "the page", "--role", "analyst", "--json").lines
    with serving(demo, "--auth", "keys") as service:
        page = open_page("/", service.client)
        for key in ("etl_wrong", made["key"]):
            page.get_by_label("Key or token").fill(key)
            page.get_by_role("button", name="Sign in").click()
            if key != made["key"]:
                page.get_by_text("This key is not valid").wait_for()
        _settle(page)
        assert int(_tile(page, "Shipments").replace(",", "")) > 0
        assert made["key"] not in page.url
        page.reload()
        _settle(page)
        page.get_by_role("link", name="Runs").click()
        page.get_by_text("this is for operators; your role is analyst").first.wait_for()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Key or token").wait_for()
        assert page.evaluate("sessionStorage.length") == 0


def test_an_empty_database_is_no_error(open_page: Open, site: Site) -> None:
    """Before the first load the page says that nothing was loaded."""
    site.run("precalculate")
    with serving(site) as service:
        page = open_page("/", service.client)
        page.get_by_text("Nothing was loaded yet").first.wait_for()
        _settle(page)
        assert page.locator(".problem").all_inner_texts() == []
