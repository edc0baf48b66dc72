"""Who may see what on the page: sign in by a key, sessions by tokens, and what is for operators.

`make test-browser` installs what these tests need. Without it they are skipped.
"""

import pytest

from etl.ingestion.ledger import locks
from tests.serving.conftest import Open
from tests.support.browsing import AXE, settle, tile, violations
from tests.support.services import serving
from tests.support.site import Site

BEARER = "JSON.parse(sessionStorage.getItem('etl.session')).bearer"

pytestmark = pytest.mark.slow


def test_a_key_opens_the_page(open_page: Open, demo: Site) -> None:
    """The page asks for a key and refuses a wrong one; an analyst sees all but what is for operators."""
    [made] = demo.run("key", "create", "the page", "--role", "analyst", "--json").lines
    with serving(demo, "--auth", "keys") as service:
        page = open_page("/", service.client)
        for key in ("etl_wrong", made["key"]):
            page.get_by_label("Key or token").fill(key)
            assert not AXE.exists() or violations(page) == []
            page.get_by_role("button", name="Sign in").click()
            if key != made["key"]:
                page.get_by_text("This key is not valid").wait_for()
        page.locator(".tile").first.wait_for()
        settle(page)
        assert int(tile(page, "Shipments").replace(",", "")) > 0
        stored = page.evaluate("JSON.stringify(sessionStorage)")
        assert "bearer" in stored
        assert not [secret for secret in (made["key"], "etlr_") if secret in stored + page.url]
        page.reload()
        settle(page)
        assert page.get_by_role("link", name="Runs").count() == 0
        page.get_by_role("table", name="Shipments per week").get_by_role("link").nth(1).click()
        settle(page)
        page.get_by_role("table", name="Facts").get_by_role("link").first.click()
        page.get_by_text("are for operators; your role is analyst").wait_for()
        page.goto(f"{service.client.base_url}/?view=runs")
        page.get_by_text("a key with the role operator").wait_for()
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Key or token").wait_for()
        assert page.evaluate("sessionStorage.length") == 0


def test_a_session_is_renewed_and_ends_with_its_key(open_page: Open, demo: Site) -> None:
    """A token is renewed over restarts of the service and reloads of the page; a revoked key ends it with a reason."""
    [made] = demo.run("key", "create", "the page", "--role", "operator", "--json").lines
    with serving(demo, "--auth", "keys") as service:
        port = service.client.base_url.port
        page = open_page("/?view=runs", service.client)
        page.get_by_label("Key or token").fill(made["key"])
        page.get_by_role("button", name="Sign in").click()
        page.get_by_role("table", name="Runs").wait_for()
        before = page.evaluate(BEARER)
    # Another process has another secret: the token of before is not valid any more, and the refresh token is.
    with serving(demo, "--auth", "keys", "--port", f"{port}"):
        page.wait_for_function(f"(before) => {BEARER} !== before", arg=before)
        page.reload()
        page.get_by_role("table", name="Runs").wait_for()
        demo.run("key", "revoke", made["id"])
        page.get_by_label("Status").select_option("loaded")
        page.get_by_text("Your session has ended").wait_for()


def test_an_operator_replays_a_file_on_the_page(open_page: Open, demo: Site) -> None:
    """A button of the file asks first, and then says that its source is held, or what was loaded and rejected."""
    keys = {
        role: demo.run("key", "create", "the page", "--role", role, "--json").lines[0]["key"]
        for role in ("analyst", "operator")
    }
    [failure] = [name for name in demo.failures.waiting() if demo.failures.details(name)["dataset"] == "vehicle_logs"]
    [(run,)] = demo.ask("select run from etl.failures where id = %s", [failure])
    with serving(demo, "--auth", "keys", "--allow-replay") as service:
        page = open_page("/?view=runs", service.client)
        page.get_by_label("Key or token").fill(keys["analyst"])
        page.get_by_role("button", name="Sign in").click()
        page.get_by_text("a key with the role operator").wait_for()
        assert page.get_by_role("button", name="Replay").count() == 0
        page.get_by_role("button", name="Sign out").click()
        page.get_by_label("Key or token").fill(keys["operator"])
        page.get_by_role("button", name="Sign in").click()
        button = page.get_by_role("button", name=f"Replay {failure}", exact=True)
        button.focus()
        page.keyboard.press("Enter")
        page.get_by_role("heading", name=f"Replay {failure}?").wait_for()
        assert not AXE.exists() or violations(page) == []
        page.keyboard.press("Enter")  # Cancel has the focus.
        page.get_by_role("dialog").wait_for(state="hidden")
        assert demo.value("select state from etl.failures where id = %s", [failure]) == "pending"
        with demo.connect() as holder:
            locks.hold_run(holder, run)
            button.press("Enter")
            page.get_by_role("button", name="Replay now").press("Enter")
            page.get_by_role("alert").get_by_text("holds the source of this file").wait_for()
        demo.wait_for_locks()
        button.click()
        page.get_by_role("button", name="Replay now").click()
        result = f"{failure}: 0 loaded, 6 rejected. What was refused again waits"
        page.get_by_role("status").get_by_text(result).wait_for()
        button.wait_for(state="detached")
        assert not AXE.exists() or violations(page) == []
    with serving(demo) as service:
        page = open_page("/?view=runs", service.client)
        page.get_by_role("table", name="Failures").wait_for()
        settle(page)
        assert page.get_by_role("button", name="Replay").count() == 0
