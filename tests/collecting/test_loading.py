"""Events of a spool are loaded by the same line as files: once each, whatever dies, beside files of their dataset."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

import psycopg
import pytest

from etl.collecting import segments
from etl.errors import BusyError, UsageError
from etl.ingestion.ledger import locks
from tests.support.checkout import ROOT
from tests.support.collected import NOTHING, load_all, loader_of, send, spool_of
from tests.support.definitions import ITEMS, SMALL_PARCELS
from tests.support.site import Site
from tests.support.waiting import until

BOXES = """
name = "boxes"
mode = "merge"
key = ["id"]
[[table]]
name = "logistics.boxes"
[table.columns]
id = { type = "integer", required = true }
v = "text"
"""

LOCKS = "select pid from pg_locks where locktype = 'advisory'"

# A loader in a process of its own: the address of the database, the folder, the name of the dataset.
LOADER = """
import sys, time
from pathlib import Path
from etl.datasets import find
from etl.errors import BusyError
from tests.support.collected import loader_of
loader = loader_of(sys.argv[1], Path(sys.argv[2]), find(sys.argv[3], Path(sys.argv[2]) / "config"))
while True:
    try:
        loader.load_next()
    except BusyError:
        time.sleep(0.01)
"""


def listed(site: Site, *command: str) -> list[dict[str, Any]]:
    """Return what a command lists."""
    return [json.loads(line) for line in site.run(*command, "--json").stdout.splitlines()]


def test_equal_stretches_are_loaded_each(site: Site) -> None:
    """The same 1,000 events, sent three times to an append dataset, are 3,000 rows of one run; files do not matter."""
    dataset = site.define(SMALL_PARCELS)
    events = [{"parcel_id": f"P{number}", "weight": number} for number in range(1_000)]
    loader = loader_of(site.conninfo, site.folder, dataset)
    for _ in range(3):
        send(site, "parcels", events)
        assert load_all(loader) == 1
        assert loader.load_next() is None
    loader.close()
    assert site.value("select count(*) from logistics.parcels") == 3_000
    assert site.ask("select count(*), count(distinct run) from etl.batches") == [(3, 1)]
    source = site.folder / "parcels.ndjson"
    source.write_text("\n".join(map(json.dumps, events)))
    assert site.load("parcels", source)["records"]["loaded"] == 1_000
    assert site.load("parcels", source)["status"] == "already_loaded"


def test_refused_events(site: Site) -> None:
    """A refused event is in the failed store with its place; it is replayed and traced like a record of a file."""
    dataset = site.define(SMALL_PARCELS)
    [first, second] = send(
        site, "parcels", [{"parcel_id": "A", "weight": 1}, {"parcel_id": "B", "weight": "x"}], {"parcel_id": "C"}
    )
    loader = loader_of(site.conninfo, site.folder, dataset)
    assert load_all(loader) == 1
    loader.close()
    assert site.column("select parcel_id from logistics.parcels order by 1") == ["A", "C"]
    [failure] = listed(site, "failed", "list")
    [stored] = site.store.glob("parcels/*/*.json")
    assert json.loads(stored.read_text())["records"][0]["offset"] == first.offsets[1]
    path = stored.with_suffix(".ndjson")
    path.write_text(path.read_text().replace('"x"', "2"))
    assert site.run("failed", "replay", failure["id"]).returncode == 0
    assert site.column("select weight from logistics.parcels where parcel_id = 'B'") == [2]
    [traced] = listed(site, "runs", "trace", "logistics.parcels", "parcel_id=C")
    assert (traced["source"], traced["record"]) == (second.stream, 3)
    [run] = listed(site, "runs", "list")
    assert (run["status"], run["source"], run["records"]) == ("loaded", second.stream, 3)


def test_a_later_run_ends_the_stretch(site: Site) -> None:
    """In a merge the later record wins: an event wins over a file before it, and a file over an event before it."""
    dataset = site.define(BOXES)
    loader = loader_of(site.conninfo, site.folder, dataset)
    export = site.folder / "boxes.ndjson"

    def load_export(value: str) -> None:
        export.write_text("".join(f'{{"id": {number}, "v": "{value}"}}\n' for number in range(3)))
        assert site.load("boxes", export)["exit_code"] == 0

    send(site, "boxes", [{"id": 0, "v": "event 1"}, {"id": 0, "v": "event 2"}])
    assert load_all(loader) == 1
    load_export("night 1")
    assert site.column("select v from logistics.boxes order by id") == ["night 1"] * 3
    send(site, "boxes", {"id": 1, "v": "event 3"})
    send(site, "boxes", {"id": 1, "v": "event 4"})
    assert load_all(loader) == 1
    assert site.column("select v from logistics.boxes order by id") == ["night 1", "event 4", "night 1"]
    send(site, "boxes", {"id": 2, "v": "event 5"})
    assert load_all(loader) == 1
    loader.close()
    assert site.value("select count(*) from etl.runs where stream is not null") == 2
    load_export("night 1")
    assert site.column("select v from logistics.boxes order by id") == ["night 1", "event 4", "event 5"]
    assert site.value("select count_events from etl.streams") == 5


def test_a_collector_lets_others_work(site: Site) -> None:
    """Between two groups nothing is locked; while a replace holds the dataset, events wait, and are loaded after it."""
    replaced = site.define(ITEMS)
    with pytest.raises(UsageError, match="shows a whole source at once"):
        loader_of(site.conninfo, site.folder, replaced)
    dataset = site.define(ITEMS.replace('"replace"', '"merge"'))
    loader = loader_of(site.conninfo, site.folder, dataset)
    send(site, "items", {"id": 1, "v": "event"})
    assert load_all(loader) == 1
    assert not site.ask(LOCKS)
    assert [run["status"] for run in listed(site, "runs", "list", "--dataset", "items")] == ["loaded"]
    export = site.folder / "items.ndjson"
    export.write_text('{"id": 2, "v": "night"}\n')
    summary = site.load("items", export, "--mode", "replace", "--max-deleted", "100%")
    assert summary["status"] == "loaded"
    assert site.column("select v from lab.items") == ["night"]
    send(site, "items", {"id": 3, "v": "event"})
    with site.connect() as holder:
        locks.hold_dataset(holder, "items", "replace")
        with pytest.raises(BusyError, match="a replace holds the dataset"):
            loader.load_next()
    until(lambda: not site.ask(LOCKS), "the end of the replace")
    assert load_all(loader) == 1
    loader.close()
    assert site.column("select v from lab.items order by id") == ["night", "event"]
    # A group is being loaded when the replace begins: it waits for its end.
    with psycopg.connect(site.conninfo, application_name=locks.COLLECTOR) as group:
        assert locks.share_dataset_in_transaction(group, "items")
        export.write_text('{"id": 4, "v": "night"}\n')
        replacing = site.start("load", "items", export, "--mode", "replace", "--max-deleted", "100%")
        until(lambda: site.ask("select pid from pg_locks where locktype = 'advisory' and not granted"), "the replace")
        with psycopg.connect(site.conninfo, application_name=locks.COLLECTOR) as other:
            assert not locks.share_dataset_in_transaction(other, "items")
        group.rollback()
        assert replacing.ended().returncode == 0


@pytest.mark.slow
def test_two_loaders_and_kills(site: Site) -> None:
    """Two loaders at once, killed again and again, load each event once; loaded segments are removed."""
    dataset = site.define(SMALL_PARCELS)
    chance = random.Random(7)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOADER, site.conninfo, str(site.folder), "parcels"]
    running = [subprocess.Popen(command, env=environment) for _ in range(2)]
    sent = 0
    try:
        for _ in range(4):
            for _ in range(10):
                send(site, "parcels", [{"parcel_id": f"P{sent + number}"} for number in range(50)])
                sent += 50
                time.sleep(chance.random() * 0.02)
            killed = running.pop(0)
            killed.send_signal(signal.SIGKILL)
            killed.wait()
            running.append(subprocess.Popen(command, env=environment))
        until(lambda: site.value("select coalesce(sum(count_events), 0) from etl.streams") == sent, "all events")
    finally:
        for process in running:
            process.kill()
            process.wait()
    assert site.ask("select count(*), count(distinct parcel_id) from logistics.parcels") == [(sent, sent)]
    [stream] = segments.streams(spool_of(site.folder, "parcels"))
    assert len(stream.segments()) == 40
    loader = loader_of(site.conninfo, site.folder, dataset, keep=NOTHING)
    assert load_all(loader) == 0
    assert len(stream.segments()) == 1
    [accepted] = send(site, "parcels", {"parcel_id": "last"})
    assert accepted.stream == stream.name
    assert load_all(loader) == 1
    loader.close()
    assert site.value("select count(*) from logistics.parcels") == sent + 1


def test_an_undone_run(site: Site) -> None:
    """Events that come after the run of their stream was taken back begin a new run; those before stay out."""
    dataset = site.define(SMALL_PARCELS)
    loader = loader_of(site.conninfo, site.folder, dataset)
    send(site, "parcels", {"parcel_id": "A"})
    assert load_all(loader) == 1
    run = site.value("select run from etl.runs")
    assert site.run("runs", "undo", run).returncode == 0
    send(site, "parcels", {"parcel_id": "B"})
    assert load_all(loader) == 1
    loader.close()
    assert site.column("select parcel_id from logistics.parcels") == ["B"]
