"""Several tables from one stream, by the kind of record."""

import json
from typing import Any

from tests.support.definitions import EVENTS
from tests.support.faults import Connection
from tests.support.site import Site


def _event(id: str, kind: str, version: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": id, "type": kind, "version": version} | more


def _box(code: str, sealed: object = True) -> dict[str, Any]:
    return {"box": {"code": code, "sealed": sealed}}


def _tables(connection: Connection) -> list[Any]:
    return [
        connection.execute("select id, version, port from logistics.transport_events order by id").fetchall(),
        connection.execute("select id, version, box from logistics.equipment_events order by id").fetchall(),
    ]


def test_each_record_goes_to_the_first_table_that_takes_it(site: Site) -> None:
    """Each kind is merged into its table, what no table takes is rejected, and the balance holds in every mode."""
    site.define(EVENTS)
    # Known to the database alone: what it refuses is isolated, whichever table it is of.
    site.ask("alter table logistics.equipment_events add check (box <> 'BAD')")

    def load(name: str, records: list[dict[str, Any]], *options: str) -> dict[str, Any]:
        (site.folder / name).write_text(json.dumps(records))
        summary = site.load("events", name, "--no-precalculate", "--max-rejected", "100%", *options)
        counts = summary["records"]
        assert counts["read"] == counts["loaded"] + counts["rejected"]
        assert summary["exit_code"] == (1 if counts["rejected"] else 0)
        return summary

    first = load(
        "first.json",
        [
            _event("A", "TRANSPORT", port="BR"),
            _event("A", "EQUIPMENT", **_box("one")),
            _event("B", "BOX", **_box("BAD")),
            _event("C", "BOX", **_box("two", sealed=1)),
            _event("D", "BOX", **_box("open", sealed=False)),
            _event("E", "BOX", **_box("text", sealed="true")),
            _event("F", "SHIPMENT"),
            {"id": "G"},
            _event("H", "TRANSPORT"),
            _event("C", "BOX", version=2, **_box("three")),
        ],
    )
    assert first["records"]["rejected"] == 6
    assert first["rows"] == {"logistics.transport_events": 1, "logistics.equipment_events": 3}
    assert _tables(site.connection) == [[("A", 1, "BR")], [("A", 1, "one"), ("C", 2, "three")]]
    reasons = sorted(
        each["reason"]
        for stored in (site.folder / "failed").rglob("*.json")
        for each in json.loads(stored.read_text())["records"]
    )
    assert reasons.count("no table takes the record: `where` holds in none") == 4
    assert "expected a value, got none" in reasons

    load("second.json", [_event("A", "TRANSPORT", version=2, port="DE"), _event("C", "BOX", **_box("old"))])
    assert _tables(site.connection) == [[("A", 2, "DE")], [("A", 1, "one"), ("C", 2, "three")]]
    load("third.json", [_event("Z", "TRANSPORT", port="US"), _event("A", "BOX", **_box("new"))], "--mode", "replace")
    assert _tables(site.connection) == [[("Z", 1, "US")], [("A", 1, "new")]]
