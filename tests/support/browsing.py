"""Pages in a real browser: what tests of them look for."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.checkout import ROOT

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
AXE = ROOT / "web" / "node_modules" / "axe-core" / "axe.min.js"

_RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@contextmanager
def launched() -> Iterator[Any]:
    """Run a browser; without one, and without its driver, the test is skipped."""
    playwright = pytest.importorskip("playwright.sync_api", reason="no playwright: `make test-browser` installs it")
    if CHROMIUM is None:
        pytest.skip("no chromium: `make test-browser` installs it")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def settle(page: Any) -> None:
    """Wait until all answers of a view are there."""
    page.get_by_role("heading", level=1).wait_for()
    page.locator("section.panel, form.filters").first.wait_for()
    page.locator("[aria-busy=true]").first.wait_for(state="detached")


def tile(page: Any, name: str) -> str:
    """Return the figure of a tile."""
    return str(page.locator(".tile", has_text=name).locator("strong").inner_text())


def cells(page: Any, table: str) -> list[list[str]]:
    """Return the texts of a table, its head first."""
    script = "(table) => [...table.rows].map((row) => [...row.cells].map((cell) => cell.textContent.trim()))"
    return list(page.get_by_role("table", name=table, exact=True).evaluate(script))


def violations(page: Any) -> list[Any]:
    """Return the rules of WCAG 2.2 AA that a page breaks, with the elements that break them."""
    options = json.dumps({"runOnly": _RULES, "resultTypes": ["violations"]})
    run = f"axe.run({options}).then((found) => JSON.stringify([found.passes.length, found.violations]))"
    answer = page.context.new_cdp_session(page).send(
        "Runtime.evaluate",
        {"expression": f"{AXE.read_text()};{run}", "awaitPromise": True, "returnByValue": True},
    )
    count_passed, found = json.loads(answer["result"]["value"])
    assert count_passed > 15
    return [(each["id"], [node["html"] for node in each["nodes"]]) for each in found]


def is_fault(message: Any) -> bool:
    """Return whether a message of the console is an error. The browser reports answers that the page shows itself."""
    return message.type in {"error", "warning"} and "Failed to load resource" not in message.text
