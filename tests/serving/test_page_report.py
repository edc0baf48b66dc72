"""The page of `etl report` in a real browser: it fits narrow windows and is accessible, without a network.

`make test-browser` installs what these tests need. Without it they are skipped.
"""

from pathlib import Path
from typing import Any

import pytest

from tests.support.browsing import AXE, violations
from tests.support.site import Site

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("aggregate", [[], ["lane_reliability", "--limit", "20"]])
def test_the_report_is_readable_by_everyone(browser: Any, demo: Site, tmp_path: Path, aggregate: list[str]) -> None:
    """Wide and narrow, light and dark, the report breaks no rule of WCAG 2.2 AA that axe checks, and cuts nothing."""
    if not AXE.exists():
        pytest.skip("no axe-core: `make test-browser` installs it")
    file = tmp_path / "report.html"
    file.write_text(demo.run("report", *aggregate, "--format", "html").stdout)
    faults: list[str] = []
    for width in (1400, 400):
        for scheme in ("light", "dark"):
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True)
            page = context.new_page()
            page.on("console", lambda message: faults.append(message.text))
            page.goto(file.as_uri())
            assert page.get_by_role("heading", level=1).is_visible()
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            assert violations(page) == []
            context.close()
    assert faults == []
