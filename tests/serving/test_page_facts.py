"""From a figure of the page to the facts that it counts, and to source, record number and byte of each.

`make test-browser` installs what these tests need. Without it they are skipped.
"""

import re

import pytest

from tests.serving.conftest import Open
from tests.support.browsing import cells, settle
from tests.support.site import Site

pytestmark = pytest.mark.slow


def test_a_bar_leads_to_the_byte_of_a_record(open_page: Open, demo: Site) -> None:
    """A click on a week shows its days, on a day its facts, on a fact its record and byte; the back button returns."""
    page = open_page("/?from=2025-05-01&to=2025-08-31")
    settle(page)
    page.locator(".chart .u-over").first.click()
    page.wait_for_url(re.compile(r"from=2025-0\d-\d\d&to=2025-0\d-\d\d"))
    page.get_by_role("heading", name="Shipments per day").wait_for()
    day = demo.value("select day::text from analytics.daily_shipments where count_shipments > 1 order by day limit 1")
    page.goto(f"/?from={day}&to={day}")
    settle(page)
    days = page.url
    page.locator(".chart .u-over").first.click()
    page.wait_for_url("**/?view=facts&**")
    settle(page)
    _, first, *_ = cells(page, "Facts")
    page.get_by_role("table", name="Facts").get_by_role("link").first.press("Enter")
    page.get_by_text("first byte").wait_for()
    settle(page)
    [traced] = demo.run("runs", "trace", "logistics.shipments", f"shipment_id={first[0]}", "--json").lines
    shown = page.locator("dl.facts").first.inner_text()
    assert f"number {traced['record']:,}" in shown
    assert f"{traced['offset']:,}" in shown
    assert "shipments.json" in shown
    page.go_back()
    page.get_by_role("table", name="Facts").wait_for()
    page.go_back()
    page.wait_for_url(days)
    page.get_by_role("heading", name="Shipments per day").wait_for()


@pytest.mark.parametrize(
    ("address", "table", "column", "cancelled"),
    [
        ("/?from=2025-05-01&to=2025-06-15", "Shipments per day", "shipments", "created_at"),
        ("/?from=2025-05-01&to=2025-06-15", "Promises per day", "due", "promised_at"),
        ("/?view=carriers&from=2025-05-01&to=2025-06-30", "Carriers", "due", "promised_at"),
        ("/?view=warehouses&from=2025-05-01&to=2025-06-30", "Warehouses", "departed", ""),
        ("/?view=lanes&from=2025-05-01&to=2025-06-30", "Lanes", "shipments", "created_at"),
        ("/", "Open shipments by age", "overdue", ""),
        ("/", "Open shipments by age", "open", ""),
    ],
)
def test_a_figure_leads_to_the_facts_that_it_counts(
    open_page: Open, demo: Site, address: str, table: str, column: str, cancelled: str
) -> None:
    """The link of a figure leads to as many facts as it counts, and the cancelled ones where its meaning says so."""
    page = open_page(address)
    settle(page)
    head, *lines = cells(page, table)
    at = head.index(column)
    column_cells = page.get_by_role("table", name=table, exact=True).locator(f"tbody tr > :nth-child({at + 1})")
    counted = [int(line[at].split()[0].replace(",", "")) for line in lines]
    column_cells.get_by_role("link").first.click()
    page.wait_for_url("**/?view=facts&**")
    settle(page)
    _, *facts = cells(page, "Facts")
    keys = [row[0] for row in facts]
    ends = "select count(*) from logistics.shipments where shipment_id = any(%s) and status = 'cancelled'"
    extra = demo.value(ends, [keys])
    assert len(keys) - extra == next(each for each in counted if each), page.url
    assert extra == 0 or cancelled


def test_facts_are_chosen_and_paged(open_page: Open, demo: Site) -> None:
    """A condition is added in a form and removed by a link; a long list has pages, and CSV has all of them."""
    page = open_page("/?view=facts")
    settle(page)
    page.get_by_text("Rows 1 to 100, and there are more.").wait_for()
    page.get_by_role("link", name="Next 100").click()
    page.get_by_text("Rows 101 to 200, and there are more.").wait_for()
    page.go_back()
    page.get_by_text("Rows 1 to 100, and there are more.").wait_for()
    with page.expect_download() as saved:
        page.get_by_role("link", name="Download logistics.shipments as CSV").click()
    saved_lines = saved.value.path().read_text().splitlines()
    assert len(saved_lines) > int(demo.value("select count(*) from logistics.shipments"))
    page.get_by_label("Column").select_option("carrier")
    page.get_by_label("Condition").select_option("contains")
    page.get_by_label("Value").fill("a")
    page.get_by_role("button", name="Add").click()
    page.get_by_text("choose the rows also by a column that an index has").wait_for()
    page.get_by_label("Column").select_option("created_at")
    page.get_by_label("Condition").select_option("from")
    page.get_by_label("Value").fill("2025-06-01")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("table", name="Facts").wait_for()
    assert page.get_by_role("list", name="Chosen by").get_by_role("listitem").count() == 2
    page.get_by_role("link", name="Remove: carrier like *a*").click()
    page.wait_for_url(re.compile(r"where=created_at%3Dgte\.2025-06-01$"))
