"""Fixtures of the command line: a small dataset, and the logging that commands in this process change."""

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from tests.support.site import Site

PARCELS = """
name = "parcels"
mode = "append"
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = "text"
"""


@pytest.fixture
def parcels(site: Site) -> Site:
    """A site with a dataset and a source of six records."""
    site.define(PARCELS)
    (site.folder / "feed.json").write_text(json.dumps([{"parcel_id": f"P{number}"} for number in range(6)]))
    return site


@pytest.fixture
def logging_restored() -> Iterator[None]:
    """Begin and end without configured logging, as a program does."""
    structlog.reset_defaults()
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    # Logging that a command of another test configured in this process.
    root.handlers[:] = [handler for handler in handlers if type(handler).__module__.startswith("_pytest")]
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()
