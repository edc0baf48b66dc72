"""A column of type time, from the definition to the table."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from tests.support.site import Site

Connection = psycopg.Connection[tuple[Any, ...]]
RunEtl = Callable[..., subprocess.CompletedProcess[str]]

HOURS = """
name = "hours"
mode = "merge"
key = ["depot", "opens"]
[[table]]
name = "logistics.hours"
[table.columns]
depot = { type = "text", required = true }
opens = { type = "time", required = true, min = "05:00" }
closes = { type = "time", null_if = ["never"], max = "24:00", formats = ["%I:%M %p"], misfits_to = "closes_note" }
closes_note = "text"
pause = { type = "time", default = "12:00" }
"""


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has the table of `hours`."""
    site.write_definition(HOURS)
    assert site.run("dataset", "create", "hours").returncode == 0
    assert site.run("dataset", "check", "hours").returncode == 0
    return site


@pytest.mark.parametrize("decoder", ["auto", "ijson"])
def test_records_are_merged_by_a_time_of_day(site: Site, decoder: str) -> None:
    """Two spellings of a time are one key; bounds, formats, default and misfits hold in a dry run and in a load."""
    records = [
        {"depot": "LDZ", "opens": "08:15", "closes": "20:00"},
        {"depot": "LDZ", "opens": "08:15:00.0", "closes": "8:30 PM", "pause": "11:45:00.25"},
        {"depot": "LDZ", "opens": "13:00", "closes": "24:00"},
        {"depot": "BER", "opens": "06:00", "closes": "late"},
        {"depot": "BER", "opens": "23:59:60", "closes": "never"},
        {"depot": "BER", "opens": "04:59:59.9999999", "closes": "05:01"},
        {"depot": "BER", "opens": "04:59:59.9", "closes": "05:01"},
        {"depot": "BER", "opens": "08:15Z"},
        {"depot": "BER", "opens": "25:00"},
    ]
    (site.folder / "hours.json").write_text(json.dumps(records))
    load = ["load", "hours", "hours.json", "--json", "--no-precalculate", "--decoder", decoder]
    load += ["--max-rejected", "100%"]
    rehearsed = site.run(*load, "--dry-run").summary
    loaded = site.run(*load).summary
    assert rehearsed["records"]["rejected"] == loaded["records"]["rejected"] == 3
    assert {(reason["sqlstate"], reason["column"]) for reason in rehearsed["reasons"]} == {
        ("22007", "opens"),
        ("22008", "opens"),
        ("23514", "opens"),
    }
    rows = site.ask(
        "select depot, opens::text, closes::text, closes_note, pause::text from logistics.hours order by 1, 2"
    )
    assert rows == [
        ("BER", "05:00:00", "05:01:00", None, "12:00:00"),
        ("BER", "06:00:00", None, "late", "12:00:00"),
        ("BER", "24:00:00", None, None, "12:00:00"),
        ("LDZ", "08:15:00", "20:30:00", None, "11:45:00.25"),
        ("LDZ", "13:00:00", "24:00:00", None, "12:00:00"),
    ]
    traced = site.run("runs", "trace", "logistics.hours", "depot=BER", "opens=24:00")
    assert traced.returncode == 0, traced.stderr


def test_differences_of_a_time_are_reported(site: Site) -> None:
    """`dataset check` reports another type and a missing check, each with the statement that corrects it."""
    site.ask(
        "alter table logistics.hours alter pause drop default, alter pause type timetz, drop constraint hours_opens_min"
    )
    done = site.run("dataset", "check", "hours")
    assert done.returncode == 1
    assert "is time with time zone, and not time" in done.stdout
    assert 'alter column "pause" type time;' in done.stdout
    assert "lacks the CHECK ((opens >= '05:00:00'::time without time zone))" in done.stdout
