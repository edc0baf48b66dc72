"""Facts for reports, and pages as a browser reads them."""

import json
from html.parser import HTMLParser
from typing import Any

from etl.precalculation.catalogue import choose
from etl.precalculation.refresh import refresh
from tests.support.commands import RunEtl
from tests.support.faults import Connection

HOSTILE = """<script>alert("1")</script>'&amp;</td>\x1b[31m\u202e"""


def ship(connection: Connection, *shipments: tuple[str, str, str, str]) -> None:
    """Add shipments of (id, carrier, day of creation, weight), delivered on time a day later, and refresh all."""
    with connection.cursor() as cursor:
        cursor.executemany(
            "insert into logistics.shipments (shipment_id, carrier, origin_city, destination_city, created_at, "
            "picked_up_at, promised_at, delivered_at, weight_kg, etl_run, etl_batch, etl_place) values "
            "(%s, %s, %s, 'Zürich', %s, %s::date, %s::date + 3, %s::date + 1, %s, 1, 0, 1)",
            [(name, carrier, carrier, day, day, day, day, weight) for name, carrier, day, weight in shipments],
        )
    for aggregate in choose([]):
        refresh(connection, aggregate, run=None)


def rows_of(connection: Connection, query: str) -> list[tuple[Any, ...]]:
    """Return the rows of a query."""
    return connection.execute(query.encode()).fetchall()


class Page(HTMLParser):
    """A page as a browser reads it: elements, attributes, the text that is shown, tables and the data of charts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text = ""
        self.headings: list[str] = []
        self.tables: dict[str, list[list[str]]] = {}
        self.charts: dict[str, Any] = {}
        self.scripts: list[str] = []
        self._open: list[str] = []
        self._rows: list[list[str]] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in {"meta", "wbr"}:
            self._open.append(tag)
        if tag == "table":
            self._rows = []
        elif tag == "tr":
            self._rows.append([])
        elif tag in {"td", "th"}:
            self._rows[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        """Check that elements end in the reverse order of their beginning."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note text, the cells of tables by caption, and scripts."""
        inner = self._open[-1] if self._open else ""
        if inner == "script":
            self.scripts.append(data)
            if data.startswith("{"):
                self.charts = json.loads(data)
        elif inner != "style":
            self.text += data
            if inner == "h2":
                self.headings.append(data)
            elif inner == "caption":
                self.tables[data] = self._rows
            elif inner in {"td", "th"}:
                self._rows[-1][-1] += data


def page_of(run_etl: RunEtl, *arguments: str) -> Page:
    """Return the page of a report."""
    done = run_etl("report", *arguments, "--format", "html")
    assert (done.returncode, done.stderr) == (0, "")
    return Page(done.stdout)
