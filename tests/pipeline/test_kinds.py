"""Several tables from one stream, by the kind of record."""

import json
from pathlib import Path
from typing import Any

import pytest

from etl.database.tables import create_tables
from etl.datasets import read
from etl.errors import DefinitionError
from etl.ingestion.transform.projection import Projection
from etl.ingestion.values import Fault, Piece
from tests.support.commands import RunEtl
from tests.support.faults import Connection

EVENTS = """
name = "events"
mode = "merge"
key = ["id"]
newest_by = "version"
[[table]]
name = "logistics.transport_events"
where = { type = "TRANSPORT" }
[table.columns]
id = { type = "text", required = true }
version = "integer"
port = { type = "text", required = true }
[[table]]
name = "logistics.equipment_events"
where = { type = ["EQUIPMENT", "BOX"], "box.sealed" = [true, 1] }
[table.columns]
id = { type = "text", required = true }
version = "integer"
box = { path = "box.code", type = "text" }
"""


def _event(id: str, kind: str, version: int = 1, **more: Any) -> dict[str, Any]:
    return {"id": id, "type": kind, "version": version} | more


def _box(code: str, sealed: object = True) -> dict[str, Any]:
    return {"box": {"code": code, "sealed": sealed}}


def _tables(connection: Connection) -> list[Any]:
    return [
        connection.execute("select id, version, port from logistics.transport_events order by id").fetchall(),
        connection.execute("select id, version, box from logistics.equipment_events order by id").fetchall(),
    ]


def test_each_record_goes_to_the_first_table_that_takes_it(
    run_etl: RunEtl, postgresql: Connection, tmp_path: Path
) -> None:
    """Each kind is merged into its table, what no table takes is rejected, and the balance holds in every mode."""
    postgresql.autocommit = True
    path = tmp_path / "config" / "datasets" / "events.toml"
    path.parent.mkdir(parents=True)
    path.write_text(EVENTS)
    create_tables(postgresql, read(path))
    # Known to the database alone: what it refuses is isolated, whichever table it is of.
    postgresql.execute("alter table logistics.equipment_events add check (box <> 'BAD')")

    def load(name: str, records: list[dict[str, Any]], *options: str) -> dict[str, Any]:
        (tmp_path / name).write_text(json.dumps(records))
        done = run_etl("load", "events", name, "--json", "--no-precalculate", "--max-rejected", "100%", *options)
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
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
    assert _tables(postgresql) == [[("A", 1, "BR")], [("A", 1, "one"), ("C", 2, "three")]]
    reasons = sorted(
        each["reason"]
        for stored in (tmp_path / "failed").rglob("*.json")
        for each in json.loads(stored.read_text())["records"]
    )
    assert reasons.count("no table takes the record: `where` holds in none") == 4
    assert "expected a value, got none" in reasons

    load("second.json", [_event("A", "TRANSPORT", version=2, port="DE"), _event("C", "BOX", **_box("old"))])
    assert _tables(postgresql) == [[("A", 2, "DE")], [("A", 1, "one"), ("C", 2, "three")]]
    load("third.json", [_event("Z", "TRANSPORT", port="US"), _event("A", "BOX", **_box("new"))], "--mode", "replace")
    assert _tables(postgresql) == [[("Z", 1, "US")], [("A", 1, "new")]]


def test_a_child_table_takes_the_elements_that_it_is_for(tmp_path: Path) -> None:
    """`where` of a table with `each` chooses elements, also by what the record holds; none is no fault."""
    path = tmp_path / "trips.toml"
    path.write_text("""
name = "trips"
[[table]]
name = "logistics.trips"
columns = { trip = "text" }
[[table]]
name = "logistics.pickups"
each = "stops"
where = { kind = "PICKUP", "^.status" = ["DONE", "OPEN"] }
columns = { trip = { path = "^.trip", type = "text" }, no = { path = "#", type = "integer" } }
""")
    records: list[dict[str, Any] | Fault] = [
        {"trip": "A", "status": "DONE", "stops": [{"kind": "DROP"}, {"kind": "PICKUP"}, {"kind": {}}, 5]},
        {"trip": "B", "status": "LOST", "stops": [{"kind": "PICKUP"}]},
    ]
    piece = Piece(offset=0, count=2, first_record=1, parts=(), shape="array")
    batch = Projection(read(path)).batch(piece, records, 1, [1, 2])
    assert (batch.rows, batch.rejected) == ((2, 1), ())
    assert b"".join(batch.tables[1][0].encoded()).decode().startswith("A\t2\t")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('id = { type = "text", required = true }\nversion = "integer"\nbox', "box", "expected the key column id"),
        ('required = true }\nversion = "integer"\nbox', "required = false }\nbox", "a key column expects required"),
        ('version = "integer"\nbox', "box", "newest_by names 'version', which is not a comparable column"),
        (
            'columns]\nid = { type = "text", required = true }\nversion = "integer"\nbox',
            'columns]\nid = { type = "bigint", required = true }\nversion = "integer"\nbox',
            "expected the key column id of type text",
        ),
    ],
)
def test_every_table_of_records_holds_the_key(tmp_path: Path, old: str, new: str, message: str) -> None:
    """With a key, each table that a record may go to has its columns, and that of the newest version."""
    path = tmp_path / "events.toml"
    assert old in EVENTS
    path.write_text(EVENTS.replace(old, new, 1))
    with pytest.raises(DefinitionError, match=message):
        read(path)


def test_a_key_and_child_tables_want_one_table_of_records(tmp_path: Path) -> None:
    """Child rows of two records with one key could not be told apart."""
    path = tmp_path / "events.toml"
    child = '\n[[table]]\nname = "a.b"\neach = "c"\ncolumns = { id = { path = "^.id", type = "text" } }'
    path.write_text(EVENTS + child)
    with pytest.raises(DefinitionError, match="divide it into several datasets"):
        read(path)
