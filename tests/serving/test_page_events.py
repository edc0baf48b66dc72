"""The view of events on the page: those that programs send are seen to arrive.

`make test-browser` installs what these tests need. Without it they are skipped.
"""

import pytest

from tests.serving.conftest import Open
from tests.support.browsing import AXE, cells, settle, tile, violations
from tests.support.definitions import SMALL_PARCELS
from tests.support.services import serving
from tests.support.site import Site

PARCELS = "/v1/events/parcels"

pytestmark = pytest.mark.slow


def test_events_are_seen_to_arrive(open_page: Open, site: Site) -> None:
    """Events that are sent are counted without a reload, also refused ones; the view breaks no rule of axe."""
    site.define(SMALL_PARCELS)
    site.run("precalculate")
    with serving(site, "--collect") as service:
        page = open_page("/", service.client)
        page.get_by_role("link", name="Events", exact=True).click()
        page.get_by_text("No event has arrived yet").wait_for()
        page.evaluate("window.isTheSame = true")
        for number in range(1, 4):
            events = [{"parcel_id": f"P{number}-{place}", "weight": place} for place in range(1_000)]
            assert service.client.post(PARCELS, json=events).status_code == 202
            page.locator(".tile", has_text="Events loaded").get_by_text(f"{number},000", exact=True).wait_for()
        assert service.client.post(PARCELS, json={"parcel_id": "bad", "weight": "many"}).status_code == 202
        page.locator(".tile", has_text="Refused events").get_by_text("1", exact=True).wait_for()
        head, row = cells(page, "Streams")
        shown = dict(zip(head, row, strict=True))
        assert (shown["loaded"], shown["waiting"], shown["refused"]) == ("3,001", "0", "1")
        assert tile(page, "Events waiting") == "0"
        assert page.evaluate("window.isTheSame")
        for width in (1400, 400):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert not AXE.exists() or violations(page) == []
        page.get_by_role("table", name="Streams").get_by_role("link").click()
        page.get_by_text("What is wrong with its records").wait_for()
        settle(page)
        assert cells(page, "Faults")[1][1] == "1"


def test_events_wait_while_a_table_is_held(open_page: Open, site: Site) -> None:
    """What waits is on the page, and only where events are taken."""
    site.define(SMALL_PARCELS)
    site.run("precalculate")
    with serving(site, "--collect") as service:
        page = open_page("/?view=events", service.client)
        settle(page)
        with site.connect() as holder, holder.transaction():
            holder.execute("lock table logistics.parcels in access exclusive mode")
            for number in range(7):
                assert service.client.post(PARCELS, json={"parcel_id": f"P{number}"}).status_code == 202
            page.locator(".tile", has_text="Events waiting").get_by_text("7", exact=True).wait_for()
        page.locator(".tile", has_text="Events loaded").get_by_text("7", exact=True).wait_for()
        page.locator(".tile", has_text="Events waiting").get_by_text("0", exact=True).wait_for()
    with serving(site) as service:
        page = open_page("/?view=events", service.client)
        page.get_by_text("known where events are taken").first.wait_for()
        settle(page)
        assert cells(page, "Streams")[1][2] == "–"
