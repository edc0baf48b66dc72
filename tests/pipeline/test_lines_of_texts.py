"""Records that are texts of JSON: each text holds the JSON of a record, as exports of columns of JSON write them."""

import json

import pytest

from tests.support.records import vehicles
from tests.support.site import Site

DEFINITION = """
name = "cars"
[[table]]
name = "lab.cars"
[table.columns]
vehicle_id = { type = "text", required = true }
whole = { path = ".", type = "jsonb" }
"""


@pytest.mark.parametrize("options", [(), ("--decoder", "ijson"), ("--workers", "2")])
@pytest.mark.parametrize("shape", ["lines", "values", "array"])
def test_texts_that_hold_records_load(site: Site, shape: str, options: tuple[str, ...]) -> None:
    """All records load with their numbers and bytes, also among objects; a text that holds none is rejected."""
    site.define(DEFINITION)
    records = [record | {"note": 'a "quoted"\n\\ line é'} for record in vehicles(1, 30)]
    texts = [json.dumps(json.dumps(record, ensure_ascii=number % 2 == 0)) for number, record in enumerate(records)]
    texts[7] = json.dumps(records[7])
    texts[11] = json.dumps("no record")
    texts[12] = json.dumps('{"vehicle_id": ')
    joined = {"lines": "\n", "values": " ", "array": ","}[shape].join(texts)
    content = (f"[{joined}]" if shape == "array" else joined).encode()
    (site.folder / "cars.json").write_bytes(content)
    done = site.run("load", "cars", "cars.json", "--json", "--batch-rows", "9", "--max-rejected", "9", *options)
    assert (done.returncode, done.summary["records"]["rejected"]) == (1, 2), done.stderr
    loaded = dict(site.ask("select vehicle_id, whole from lab.cars"))
    assert loaded == {record["vehicle_id"]: record for n, record in enumerate(records) if n not in {11, 12}}
    faults = site.failures.records(done.summary["run"])
    assert [(each["record"], each["offset"], each["sqlstate"]) for each in faults] == [
        (12, content.index(b'"no record"'), "22P02"),
        (13, content.index(texts[12].encode()), "22P02"),
    ]
    trace = site.run("runs", "trace", "lab.cars", "vehicle_id=V030", "--json").lines[0]
    assert (trace["record"], trace["offset"], trace["text"]) == (30, content.index(texts[29].encode()), texts[29])
    assert site.run("load", "cars", "cars.json", "--json").summary["status"] == "already_loaded"


def test_a_rejected_text_is_replayed(site: Site) -> None:
    """The failed store keeps the line as it is; the corrected line may be a text or an object."""
    site.define(DEFINITION)
    lines = [json.dumps('{"vehicle_id": null}'), json.dumps('{"vehicle_id": null, "n": 2}')]
    (site.folder / "cars.ndjson").write_text("\n".join(lines) + "\n")
    site.run("load", "cars", "cars.ndjson", "--max-rejected", "9")
    [failure] = site.failures.waiting()
    site.failures.edit(failure, (lines[0], json.dumps('{"vehicle_id": "A"}')), (lines[1], '{"vehicle_id": "B"}'))
    assert site.run("failed", "replay", failure).returncode == 0
    assert site.column("select vehicle_id from lab.cars order by 1") == ["A", "B"]


def test_a_text_that_holds_an_array_is_refused_with_a_command(site: Site) -> None:
    """A source that is one text with an array in it is exit code 3, and the hint makes JSON of it."""
    site.define(DEFINITION)
    (site.folder / "cars.json").write_text(json.dumps(json.dumps([{"vehicle_id": "A"}])))
    done = site.run("load", "cars", "cars.json")
    assert done.returncode == 3
    assert "jq -r . FILE" in done.stderr
