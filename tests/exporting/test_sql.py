"""`etl sql`: the questions of the analyst's guide have the same answers from an export as from PostgreSQL."""

import datetime as dt
import json
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from etl.exporting import places, querying
from etl.precalculation.catalogue import read_all
from etl.precalculation.refresh import refresh
from scripts.update_answers import GUIDE
from tests.docs.test_guide_questions import A_YEAR_LATER
from tests.support import hostile_table
from tests.support.hostile_facts import HostileFacts
from tests.support.reports import Page
from tests.support.site import Site

QUERIES = re.findall(
    r"^### [^\n]+\?$.*?```sql\n(.*?)```\n\n<!-- answer -->", GUIDE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


def exact(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Return rows whose numbers compare by value, whatever their type: DuckDB divides to floating-point numbers."""
    return [
        tuple(
            Fraction(str(value)) if isinstance(value, int | float | Decimal) and not isinstance(value, bool) else value
            for value in row
        )
        for row in rows
    ]


def test_all_questions_of_the_guide_have_the_same_answers(site: Site) -> None:
    """Each query of the guide gives over Parquet what it gives in PostgreSQL, row for row and digit for digit."""
    facts = HostileFacts(site, 3)
    with facts.connection as connection:
        facts.arrive(300, 300)
        connection.execute(A_YEAR_LATER)
        for aggregate in read_all():
            refresh(connection, aggregate, run=None)
        assert site.run("export", "--to", "exports", "--partition", "month").returncode == 0
        place = places.place_of(str(site.folder / "exports"))
        assert len(QUERIES) >= 20
        for query in (each.replace(">= 100", ">= 2").replace("MUC-2", "W1") for each in QUERIES):
            answer = querying.answer(place, query)
            assert answer.rows, query
            assert exact(answer.rows) == exact(connection.execute(query.encode()).fetchall()), query
            assert {table.table.split(".")[0] for table in answer.tables} <= {"analytics", "logistics"}
            assert answer.tables, query
    same_page(site)
    assert site.run("export", "--to", "exports", "--format", "duckdb").returncode == 0
    same_page(site)


def alike(value: Any) -> Any:
    """Return a part of a page with 12 digits of its numbers: a quotient of DuckDB has no more than 15."""
    if isinstance(value, dict):
        return {name: alike(each) for name, each in value.items()}
    if isinstance(value, list):
        return [alike(each) for each in value]
    try:
        return f"{float(value.replace(',', '') if isinstance(value, str) else value):.12g}"
    except (TypeError, ValueError):
        return value


def same_page(site: Site) -> None:
    """Assert that the page of a report from the export is that from the database, but for its title."""
    server, exported = (
        Page(site.run("report", *where, "--format", "html").stdout) for where in ((), ("--from", "exports"))
    )
    assert exported.headings == server.headings
    assert set(exported.tables) == set(server.tables)
    for caption, lines in server.tables.items():
        assert alike(exported.tables[caption]) == alike(lines), caption
    assert alike(exported.charts) == alike(server.charts)
    assert len(server.charts) >= 5
    assert "Every aggregate equals its facts." in exported.text


@pytest.mark.parametrize("format", ["parquet", "arrow", "duckdb"])
def test_a_query_is_answered_with_its_freshness(site: Site, format: str) -> None:
    """From each format with types: exact numbers, instants in UTC, an empty table, and the loads that are included."""
    hostile_table.make(site.connection)
    months = [] if format == "duckdb" else ["--partition", "month"]
    done = site.run("export", "hostile", "shipments", "--to", "exports", "--format", format, *months)
    assert done.returncode == 0, done.stderr
    query = "select max(plain) as p, max(instant) as i, any_value(names order by id) as n from logistics.hostile"
    shown = site.run("sql", query, "--json")
    answer = json.loads(shown.stdout, parse_float=Decimal)
    assert (answer["columns"], answer["rows"]) == (
        ["p", "i", "n"],
        [[Decimal("123456789012345678901234567890.123000"), "2026-06-30T23:59:59.999999Z", hostile_table.NAMES]],
    )
    assert answer["tables"] == {"logistics.hostile": {"facts_through": None, "pending_buckets": None}}
    assert "2026" in answer["read_at"]
    shown = site.run("sql", "select count(weight_kg) as n, analytics.key_of(' ') as k from logistics.shipments")
    assert re.search(r"0 +\(none\)", shown.stdout), shown.stdout
    assert "read at 2026" in shown.stdout.replace(str(dt.datetime.now(dt.UTC).year), "2026")
    assert "logistics.shipments: loads unknown" in shown.stderr


def test_wrong_queries_and_places_are_errors(site: Site) -> None:
    """No export, an unknown table, two statements and CSV end with 2; a missing file with 3; values are not quoted."""
    done = site.run("sql", "select 1")
    assert (done.returncode, "there is no export in exports" in done.stderr) == (2, True)
    hostile_table.make(site.connection)
    assert site.run("export", "hostile", "--to", "exports").returncode == 0
    assert "Table with name x does not exist" in site.run("sql", "select * from logistics.x").stderr
    assert "expected one statement, got 2" in site.run("sql", "select 1; select 2").stderr
    done = site.run("sql", "select name::integer from logistics.hostile")
    assert (done.returncode, "ConversionException" in done.stderr, "quoted" in done.stderr) == (2, True, False)
    assert "lacks analytics.freshness, analytics." in site.run("report", "--from", "exports", "--format", "html").stderr
    done = site.run("report", "daily_shipments", "--from", "exports")
    assert (done.returncode, "--from gives the page on all aggregates only" in done.stderr) == (2, True)
    [table] = json.loads((site.folder / "exports" / "manifest.json").read_text())["tables"]
    (site.folder / "exports" / table["files"][0]["path"]).unlink()
    assert site.run("sql", "select count(*) from logistics.hostile").returncode == 3
    assert site.run("export", "hostile", "--to", "exports", "--format", "csv").returncode == 0
    assert "has no types" in site.run("report", "--from", "exports", "--output", "page.html").stderr
    assert "has no types" in site.run("sql", "select count(*) from logistics.hostile").stderr
