"""A column of type uuid, from the definition to the table."""

import json

import pytest

from tests.support.site import Site

PARCELS = """
name = "parcels"
mode = "merge"
key = ["id"]
newest_by = "version"
[[table]]
name = "logistics.parcels"
[table.columns]
id = { type = "uuid", required = true }
version = "integer"
order_id = { type = "uuid", null_if = ["none"], misfits_to = "order_note" }
order_note = "text"
tenant_id = { type = "uuid", default = "00000000-0000-0000-0000-000000000001" }
[[table]]
name = "logistics.parcel_items"
each = "items"
columns = { id = { path = "^.id", type = "uuid" }, sku = "text" }
"""
FIRST = "0f8fad5b-d9cb-469f-a165-70867728950e"
SECOND = "7c9e6679-7425-40de-944b-e07fc1f90ae7"


@pytest.mark.parametrize("decoder", ["auto", "ijson"])
def test_records_are_merged_by_a_uuid_in_either_case(site: Site, decoder: str) -> None:
    """A key in capitals is the key in small letters; a UUID in another spelling is rejected, by a dry run too."""
    site.write_definition(PARCELS)
    assert site.run("dataset", "create", "parcels").returncode == 0
    assert site.run("dataset", "check", "parcels").returncode == 0
    records = [
        {"id": FIRST, "version": 1, "order_id": "none", "items": [{"sku": "a"}]},
        {"id": SECOND, "version": 1, "order_id": SECOND.upper(), "tenant_id": FIRST},
        {"id": FIRST.upper(), "version": 2, "order_id": "A-17", "items": [{"sku": "b"}, {"sku": "c"}]},
        {"id": f"{{{FIRST}}}", "version": 3},
        {"id": FIRST.replace("-", ""), "version": 3},
        {"id": None, "version": 3},
    ]
    (site.folder / "parcels.json").write_text(json.dumps(records))
    load = ["load", "parcels", "parcels.json", "--json", "--no-precalculate", "--decoder", decoder]
    load += ["--max-rejected", "100%"]
    rehearsed = site.run(*load, "--dry-run").summary
    loaded = site.run(*load).summary
    assert rehearsed["records"]["rejected"] == loaded["records"]["rejected"] == 3
    assert {(reason["sqlstate"], reason["column"]) for reason in rehearsed["reasons"]} == {
        ("22P02", "id"),
        ("23502", "id"),
    }
    rows = site.ask(
        "select id::text, version, order_id::text, order_note, tenant_id::text from logistics.parcels order by version"
    )
    assert rows == [
        (SECOND, 1, SECOND, None, FIRST),
        (FIRST, 2, None, "A-17", "00000000-0000-0000-0000-000000000001"),
    ]
    items = site.ask("select id::text, sku from logistics.parcel_items order by sku")
    assert items == [(FIRST, "b"), (FIRST, "c")]


def test_a_column_of_another_type_is_reported(site: Site) -> None:
    """`dataset check` reports a uuid column that is text in the table, with the statement that corrects it."""
    site.write_definition(PARCELS)
    assert site.run("dataset", "create", "parcels").returncode == 0
    site.ask("alter table logistics.parcels alter order_id type text")
    done = site.run("dataset", "check", "parcels")
    assert done.returncode == 1
    assert "is text, and not uuid" in done.stdout
    assert 'alter table "logistics"."parcels" alter column "order_id" type uuid' in done.stdout
