import json
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from etl.datasets import find
from tests.inference.test_inference import _random_records
from tests.support.site import Site

DEFINITION = """\
# Parcels of the north.
name = "parcels"
mode = "merge"
key = ["parcel"]

[[table]]
name = "logistics.parcels"
[table.columns]
parcel = { type = "text", required = true }  # never null
city = { path = "to.city", type = "text" }
# Ours:
feed = { value = "north", type = "text" }

[[table]]
name = "logistics.parcel_scans"
each = "scans"
[table.columns]
parcel = { path = "^.parcel", type = "text" }
code = "text"
"""

OLD: dict[str, Any] = {"parcel": "P1", "to": {"city": "Bonn"}, "scans": [{"code": "IN"}]}
NEW: dict[str, Any] = {
    "parcel": "P2",
    "to": {"city": "Bonn", "zip": "01067"},
    "kg": 1.5,
    "scans": [{"code": "IN", "at": "2026-11-21T08:15:00Z", "faults": [{"no": 7}]}],
    "stops": [{"name": "HAM"}],
}


@pytest.fixture
def alone(tmp_path: Path) -> Site:
    """Give a folder for commands that need no database."""
    return Site("postgresql://nobody@127.0.0.1:1/nowhere", tmp_path)


def write(site: Site, name: str, records: list[Any]) -> None:
    """Write records as lines."""
    (site.folder / name).write_text("".join(f"{json.dumps(record)}\n" for record in records))


def test_the_diff_keeps_the_definition_and_create_adds_the_columns(site: Site) -> None:
    """Each unknown member gets a column or a table; after the patch the tables have them, and the file loads whole."""
    path = site.write_definition(DEFINITION)
    write(site, "old.ndjson", [OLD])
    write(site, "new.ndjson", [OLD, NEW])
    assert site.run("dataset", "create", "parcels").returncode == 0
    assert site.load("parcels", "old.ndjson")["exit_code"] == 0
    done = site.run("dataset", "evolve", "parcels", "new.ndjson")
    assert (done.returncode, path.read_text()) == (0, DEFINITION)
    added = [line for line in done.stdout.splitlines() if line.startswith("-") and not line.startswith("---")]
    assert added == []
    if shutil.which("patch"):
        subprocess.run(["patch", "-p0"], input=done.stdout.encode(), cwd=site.folder, check=True, capture_output=True)
    assert site.run("dataset", "evolve", "parcels", "new.ndjson", "--write").returncode == 0
    text = path.read_text()
    assert [line for line in DEFINITION.splitlines() if line not in text.splitlines()] == []
    assert text.index("# Ours:") < text.index("to_zip") < text.index("parcel_scans")
    made = site.run("dataset", "create", "parcels", "--json")
    assert made.returncode == 0
    summary = site.load("parcels", "new.ndjson", "--force")
    assert (summary["exit_code"], summary.get("unknown")) == (0, None)
    assert site.ask("select parcel, city, to_zip, kg from logistics.parcels order by parcel") == [
        ("P1", "Bonn", None, None),
        ("P2", "Bonn", "01067", 1.5),
    ]
    assert site.ask("select parcel, no from logistics.parcels_scans_faults") == [("P2", 7)]
    assert site.ask("select parcel, name from logistics.parcels_stops") == [("P2", "HAM")]
    assert site.value("select count(at) from logistics.parcel_scans") == 1


def test_a_definition_that_knows_all_members_does_not_change(alone: Site) -> None:
    """There is no diff, and the file stays as it is; a value taken whole is known with everything in it."""
    path = alone.write_definition(DEFINITION.replace('city = { path = "to.city", type = "text" }', 'to = "jsonb"'))
    before = path.read_text()
    write(alone, "new.ndjson", [{**OLD, "to": {"zip": "01067"}}])
    done = alone.run("dataset", "evolve", "parcels", "new.ndjson", "--write")
    assert (done.returncode, done.stdout) == (0, "")
    assert "knows all members" in done.stderr
    assert path.read_text() == before


def test_a_definition_of_the_installation_is_changed_by_a_file_of_its_own(alone: Site) -> None:
    """The diff makes a file in the configuration folder, which comes before the one of the installation."""
    write(alone, "new.ndjson", [{"shipment_id": "S1", "shoe_size": 7}])
    done = alone.run("dataset", "evolve", "shipments", "new.ndjson", "--json")
    facts = json.loads(done.stdout)
    assert facts["columns"] == ["logistics.shipments.shoe_size"]
    assert facts["diff"].startswith("--- /dev/null\n+++ config/datasets/shipments.toml\n")


def test_a_definition_in_another_form_is_refused(alone: Site) -> None:
    """A table whose columns are not below [table.columns] is named, and nothing is written."""
    text = 'name = "parcels"\ntable = [{ name = "logistics.parcels", columns = { parcel = "text" } }]\n'
    path = alone.write_definition(text)
    write(alone, "new.ndjson", [NEW])
    done = alone.run("dataset", "evolve", "parcels", "new.ndjson", "--write")
    assert done.returncode == 2
    assert "[table.columns]" in done.stderr
    assert path.read_text() == text


def test_an_evolved_definition_knows_records_of_any_shape(alone: Site) -> None:
    """The definition of a few records, evolved by all of them, has no unknown member any more."""
    for seed in range(8):
        records = _random_records(seed)
        few = random.Random(seed).sample(records, 1 + len(records) // 4)
        name = f"random_{seed}"
        (alone.folder / "few.json").write_text(json.dumps(few, default=float))
        (alone.folder / "all.json").write_text(json.dumps(records, default=float))
        options = ("--name", name, "--output", f"config/datasets/{name}.toml", "--records", "item")
        assert alone.run("dataset", "infer", "few.json", *options).returncode == 0
        assert alone.run("dataset", "evolve", name, "all.json", "--write").returncode == 0
        assert alone.run("dataset", "evolve", name, "all.json").stdout == ""
        assert find(name, alone.folder / "config").tables
