"""The page of `etl report` in a real browser: its charts have marks, it fits narrow windows, and it is accessible.

`make test-browser` installs what these tests need. Without it they are skipped.
"""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.support.browsing import AXE, cells, is_fault, violations
from tests.support.site import Site
from tests.support.waiting import until

# Where pictures are wanted (`make screenshots`), the folder of them.
PICTURES = os.environ.get("SCREENSHOTS")
# Whether a chart has a dot of a colour that only marks have.
MARKED = """(box) => {
    const style = getComputedStyle(document.documentElement);
    const colours = ["--series-1", "--series-2", "--series-pale"].map((name) => style.getPropertyValue(name).trim());
    const wanted = new Set(colours.map((colour) => parseInt(colour.slice(1), 16)));
    const bytes = box.getContext("2d").getImageData(0, 0, box.width, box.height).data;
    for (let at = 0; at < bytes.length; at += 4)
        if (bytes[at + 3] === 255 && wanted.has((bytes[at] << 16) | (bytes[at + 1] << 8) | bytes[at + 2])) return true;
    return false;
}"""
# Whether all charts are drawn, which begins once their boxes have a size.
DRAWN = "[...document.querySelectorAll('[data-chart], .canvas')].every((box) => box.querySelector('canvas'))"

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _axe() -> None:
    if not AXE.exists():
        pytest.skip("no axe-core: `make test-browser` installs it")


def _shipments(site: Site, records: int, carrier: str = "") -> list[dict[str, Any]]:
    """Return generated shipments by day of creation; all of one carrier, if one is given."""
    site.run("generate", "shipments", "--records", f"{records}", "--seed", "3", "--output", "all.json")
    found: list[dict[str, Any]] = json.loads((site.folder / "all.json").read_text())
    if carrier:
        found = [shipment | {"carrier": carrier} for shipment in found]
    return sorted(found, key=lambda shipment: str(shipment["created_at"]))


def _load(site: Site, name: str, shipments: list[dict[str, Any]]) -> None:
    (site.folder / name).write_text(json.dumps(shipments))
    assert site.run("load", "shipments", name).returncode == 0


def _first_load(site: Site) -> None:
    """One night of a new company: shipments of eleven days, and nothing else."""
    _load(site, "first.json", [each for each in _shipments(site, 20_000) if each["created_at"] >= "2025-12-21"])


def _nights(site: Site) -> None:
    """A year and then a month of nightly loads of all datasets."""
    for dataset, records in (("vehicles", 60), ("vehicle_logs", 3_000)):
        site.run("generate", dataset, "--records", f"{records}", "--seed", "3", "--output", f"{dataset}.json")
        assert site.run("load", dataset, f"{dataset}.json", "--no-precalculate").returncode == 0
    shipments = _shipments(site, 20_000)
    _load(site, "year.json", [each for each in shipments if each["created_at"] < "2025-12-01"])
    for night in range(31):
        day = date(2025, 12, 1) + timedelta(days=night)
        _load(site, f"{day}.json", [each for each in shipments if each["created_at"].startswith(f"{day}")])
    site.run("generate", "tracking_events", "--records", "25000", "--seed", "3", "--output", "events.json")
    assert site.run("load", "tracking_events", "events.json").returncode == 0


def _stale(site: Site) -> None:
    """A load of three days ago, of which records wait in the failed store."""
    shipments = _shipments(site, 5_000)
    (site.folder / "stale.json").write_text(json.dumps([*shipments, {"shipment_id": None}]))
    assert site.run("load", "shipments", "stale.json").returncode == 1
    site.connection.execute("update etl.refreshes set facts_through = facts_through - interval '3 days'")


def _one_carrier(site: Site) -> None:
    """A company with one carrier, whose name is long."""
    _load(
        site, "one.json", _shipments(site, 10_000, "Gesellschaft für überregionale Fernverkehrslogistik mbH & Co. KG")
    )


def _long_names(site: Site) -> None:
    """A company with 61 carriers and 40 warehouses, all with long names, some of them from right to left."""
    shipments = _shipments(site, 5_000)
    for number, shipment in enumerate(shipments):
        shipment["carrier"] = (
            f"Allgemeine Gesellschaft für überregionale Fernverkehrslogistik & Co. KG Nr. {number % 61:04}"
        )
        shipment["origin"]["warehouse"] = f"مخزن Ersatzteile und Sonderfahrten {number % 40:04}"
    _load(site, "names.json", shipments)


SITUATIONS: dict[str, Callable[[Site], None]] = {
    "first-load": _first_load,
    "nights": _nights,
    "stale": _stale,
    "one-carrier": _one_carrier,
    "long-names": _long_names,
}


@contextmanager
def _opened(browser: Any, file: Path, width: int, scheme: str) -> Iterator[Any]:
    """Open a report without a network; it may report no fault and ask for nothing."""
    faults: list[str] = []
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
    page = context.new_page()
    page.on("console", lambda message: faults.append(message.text) if is_fault(message) else None)
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("request", lambda request: faults.append(request.url) if request.url != file.as_uri() else None)
    page.goto(file.as_uri())
    # The policy of the page refuses the `eval` by which `wait_for_function` would look again.
    until(lambda: page.evaluate(DRAWN), "all charts to be drawn")
    yield page
    context.close()
    assert faults == []


@pytest.mark.parametrize("situation", SITUATIONS)
def test_a_report_is_readable_by_everyone(browser: Any, site: Site, situation: str) -> None:
    """Wide and narrow, light and dark, each chart has marks, nothing is cut, and no rule of WCAG 2.2 AA is broken."""
    SITUATIONS[situation](site)
    file = site.folder / "report.html"
    assert site.run("report", "--output", file).returncode == 0
    for width in (1400, 400):
        for scheme in ("light", "dark"):
            with _opened(browser, file, width, scheme) as page:
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert page.locator("[data-chart]").count() >= 5
                for box in page.locator(".parts > div > .table > .scroll").all():
                    assert box.evaluate("(box) => box.scrollHeight <= box.clientHeight")
                    assert width < 1400 or box.evaluate("(box) => box.scrollWidth <= box.clientWidth")
                assert all(canvas.evaluate(MARKED) for canvas in page.locator("canvas").all())
                assert violations(page) == []
                assert page.locator(".freshness.stale").count() == (2 if situation == "stale" else 0)
                if PICTURES:
                    page.screenshot(path=Path(PICTURES) / f"report-{situation}-{width}-{scheme}.png", full_page=True)
                page.locator("details").evaluate_all("(all) => all.forEach((each) => { each.open = true; })")
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert violations(page) == []


def test_a_table_is_sorted_by_the_keyboard(browser: Any, demo: Site, tmp_path: Path) -> None:
    """A column head is a button: Enter sorts by it, and again in the other order; unknown values are last in both."""
    file = tmp_path / "report.html"
    demo.run("report", "--output", file)
    with _opened(browser, file, 1400, "light") as page:
        name = next(each for each in page.locator("caption").all_inner_texts() if "by warehouse" in each)
        table = page.get_by_role("table", name=name, exact=True)
        head = table.get_by_role("columnheader", name="mean hours waiting")
        head.get_by_role("button").focus()
        for order, is_reversed in (("descending", True), ("ascending", False)):
            page.keyboard.press("Enter")
            assert head.get_attribute("aria-sort") == order
            shown = [row[-1] for row in cells(page, name)[1:]]
            known = [float(each.replace(",", "")) for each in shown if each != "–"]
            assert len(set(known)) > 1
            assert known == sorted(known, reverse=is_reversed)
            assert shown[len(known) :] == ["–"] * (len(shown) - len(known))


def test_the_age_is_that_of_the_moment(browser: Any, demo: Site, tmp_path: Path) -> None:
    """A report that is opened a day later says so: its newest load is too old then."""
    file = tmp_path / "report.html"
    demo.run("report", "--output", file)
    with _opened(browser, file, 1400, "light") as page:
        page.clock.install()
        page.reload()
        old = page.locator(".freshness.stale", has_text="newest load")
        assert old.count() == 0
        page.clock.fast_forward("26:30:00")
        page.get_by_text("26 hours old").wait_for()
        assert old.count() == 1


def test_the_page_of_an_aggregate_is_readable_by_everyone(browser: Any, demo: Site, tmp_path: Path) -> None:
    """Wide and narrow, light and dark, the page of one aggregate breaks no rule that axe checks, and cuts nothing."""
    file = tmp_path / "lanes.html"
    demo.run("report", "lane_reliability", "--limit", "20", "--output", file)
    for width in (1400, 400):
        for scheme in ("light", "dark"):
            with _opened(browser, file, width, scheme) as page:
                assert page.get_by_role("heading", level=1).is_visible()
                assert page.evaluate("document.documentElement.scrollWidth") <= width
                assert violations(page) == []
