"""Members that the definition does not know: a load names each with the number of records that have it."""

import json
from typing import Any

import pytest

from tests.support.records import as_lines
from tests.support.site import Site

PARCELS = """
name = "parcels"
mode = "append"
key = ["parcel"]
[[table]]
name = "lab.parcels"
where = { kind = "parcel" }
[table.columns]
parcel = { type = "text", required = true }
kg = "numeric"
zip = { path = "to.zip", type = "text" }
[[table]]
name = "lab.parcel_scans"
each = "scans"
columns = { parcel = { path = "^.parcel", type = "text" }, code = "text" }
[[table]]
name = "lab.others"
columns = { parcel = { type = "text", required = true } }
"""
PLAIN = PARCELS.replace('where = { kind = "parcel" }\n', "").partition('[[table]]\nname = "lab.others"')[0]

COUNTS = {"colour": 10, "to.city": 5, "scans.by": 20, '"\\u0001"': 1, "only_here": 1}


def _records() -> list[dict[str, Any]]:
    """Return 40 records of which some have unknown members; of these one is rejected."""
    held: list[dict[str, Any]] = [{"parcel": f"P{n}", "kg": n, "scans": []} for n in range(40)]
    for n in range(20):
        held[n]["scans"] = [{"code": "IN", "by": "x"}, {"code": "OUT", "by": None}]
    for n in range(10):
        held[4 * n]["colour"] = {"r": n} if n else None
    for n in range(5):
        held[n]["to"] = {"zip": "1", "city": "a"}
    held[7]["\1"] = 1
    held[39] |= {"only_here": 1, "kg": "heavy"}
    return held


@pytest.mark.parametrize("shape", ["array", "lines", "where", "keyed"])
def test_each_record_with_an_unknown_member_is_counted(site: Site, shape: str) -> None:
    """The counts are the same in each mode, by each decoder, and for any size of batches and number of workers."""
    held = _records()
    text = as_lines(*held) if shape == "lines" else json.dumps(held)
    definition = PLAIN
    if shape == "where":
        definition = PARCELS.replace('key = ["parcel"]\n', "")
        text = text.replace('{"parcel"', '{"kind": "parcel", "parcel"')
    if shape == "keyed":
        definition = PLAIN.replace('mode = "append"', 'mode = "append"\nrecords = "*"')
        text = json.dumps({f"k{n}": record for n, record in enumerate(held)})
    # A name may be spelled with escapes, and come twice in a record.
    text = text.replace('"colour": {"r": 5}', '"col\\u006fur": 1, "colour": 2')
    site.define(definition)
    (site.folder / "p.json").write_text(text)
    ways: list[tuple[str, ...]] = [(), ("--decoder", "ijson", "--atomic"), ("--dry-run",)]
    if shape == "array":
        ways += [("--batch-rows", "3"), ("--mode", "merge"), ("--mode", "replace"), ("--workers", "2")]
    for options in ways:
        site.ask("truncate lab.parcels, lab.parcel_scans")
        summary = site.load("parcels", "p.json", "--force", "--max-rejected", "100%", "--no-precalculate", *options)
        assert (summary["records"]["rejected"], summary["unknown"]) == (1, COUNTS), options


def test_a_run_names_them_once_with_its_sums(site: Site) -> None:
    """Log, summary, `runs show` and metrics have the counts of the run; its further attempts add to them."""
    site.define(PLAIN)
    (site.folder / "p.json").write_text(as_lines(*_records()))
    load = ("load", "parcels", "p.json", "--no-precalculate", "--metrics-file", "m.prom")
    part = site.run("--log-format", "json", *load, "--json", "--limit", "20", "--batch-rows", "5")
    assert part.summary["unknown"] == {"colour": 5, "to.city": 5, "scans.by": 20, '"\\u0001"': 1}
    rest = site.run("--log-format", "json", *load, "--json")
    [event] = rest.events("unknown_members")
    assert event["members"] == rest.summary["unknown"] == COUNTS
    metrics = (site.folder / "m.prom").read_text()
    assert 'etl_last_unknown_members{command="load",dataset="parcels",member="scans.by"} 20.0' in metrics
    run = str(rest.summary["run"])
    [shown] = site.run("runs", "show", run, "--json").lines
    assert (shown["unknown"], shown["unknown_others"]) == (COUNTS, 0)
    assert "scans.by" in site.run("runs", "show", run).stdout
    again = site.run("--log-format", "json", *load)
    assert not again.events("unknown_members")
    assert "does not know" not in again.stdout
    assert "unknown" not in (site.folder / "m.prom").read_text().replace("HELP etl_last_unknown", "").replace(
        "TYPE etl_last_unknown", ""
    )
    said = site.run(*load, "--force").stdout
    assert 'members that the definition does not know: scans.by 20, colour 10, to.city 5, "\\u0001" 1' in said


def test_a_killed_load_counts_its_batches_once(site: Site) -> None:
    """After a kill the next load gives the counts of all batches."""
    site.define(PLAIN)
    held = [{"parcel": f"P{n}", "colour": "red"} for n in range(300)]
    (site.folder / "p.json").write_text(as_lines(*held))
    load = ("load", "parcels", "p.json", "--no-precalculate", "--batch-rows", "100", "--workers", "1")
    with site.gate("lab.parcels", "in COPY", 2000) as gate:
        running = site.start(*load)
        gate.reached()
        assert running.kill()
    assert site.value("select count(*) from etl.batches where policies is not null") > 0
    summary = site.load(*load[1:])
    assert summary["records"]["loaded"] < 300
    assert summary["unknown"] == {"colour": 300}


def test_a_replay_says_its_own_and_adds_nothing(site: Site) -> None:
    """The records of a replay are counted already: it names what they have now, and the counts of the run stay."""
    site.define(PLAIN)
    (site.folder / "p.json").write_text(as_lines(*_records()))
    run = site.load("parcels", "p.json")["run"]
    [stored] = site.store.rglob("*.ndjson")
    stored.write_bytes(stored.read_bytes().replace(b'"heavy"', b'1, "also_here": 2'))
    done = site.run("--log-format", "json", "failed", "replay", "--run", run, "--no-precalculate")
    [event] = done.events("unknown_members")
    assert event["members"] == {"only_here": 1, "also_here": 1}
    [shown] = site.run("runs", "show", run, "--json").lines
    assert (shown["unknown"], shown["pending"]) == (COUNTS, 0)


def test_a_record_with_very_many_names_is_counted_by_both_paths_alike(site: Site) -> None:
    """After 10,000 names of one record the others count without names, so that they take no memory."""
    scans = [{"code": "IN", f"s{n % 7_000}": 1} for n in range(14_000)]
    record = {"parcel": "P0", "scans": scans} | {f"m{n}": n for n in range(4_000)}
    (site.folder / "p.ndjson").write_text(as_lines(record, {"parcel": "P1", "m3": 3}))
    site.define(PLAIN)
    found = []
    for decoder in ("auto", "ijson"):
        summary = site.load("parcels", "p.ndjson", "--decoder", decoder, "--force")
        found.append((summary["unknown"], summary["unknown_others"]))
    assert found[0] == found[1]
    unknown, others = found[0]
    assert unknown["m3"] == 2
    assert len(unknown) == 100
    assert sum(unknown.values()) + others == 10_000 + 2 * 1_000 + 1


@pytest.mark.parametrize("decoder", ["auto", "ijson"])
def test_names_that_are_data_are_bounded(site: Site, decoder: str) -> None:
    """Of thousands of names the shortest are counted, and the others are added up, however the source is cut."""
    site.define(PLAIN)
    held = [{"parcel": f"P{n}", "to": {f"id-{n + k}": k for k in range(3)}, "colour": 1} for n in range(1000)]
    held[500]["n" * 100_000] = 1
    (site.folder / "p.json").write_text(json.dumps(held))
    expected = {"colour": 1000} | {f"to.id-{n}": min(n + 1, 3) for n in range(99)}
    found = []
    for batch_rows in ("1000", "70"):
        options = ("--decoder", decoder, "--batch-rows", batch_rows, "--force", "--no-precalculate")
        done = site.run("--log-format", "json", "load", "parcels", "p.json", "--json", *options)
        found.append((done.summary["unknown"], done.summary["unknown_others"]))
        [event] = done.events("unknown_members")
        assert len(event["members"]) == 20
        assert sum(event["members"].values()) + event["others"] == 1000 + 3000 + 1
    assert found[0] == found[1] == (expected, 4001 - sum(expected.values()))
    assert site.value("select max(octet_length(policies::text)) from etl.batches") < 20_000


def test_the_ledger_has_nothing_about_known_members(site: Site) -> None:
    """Batches without an unknown member, and those of a dataset that ignores them, have no entry."""
    site.define(PLAIN)
    (site.folder / "p.json").write_text(as_lines(*_records()))
    assert "unknown" not in site.load("parcels", "p.json", "--on-unknown", "ignore")
    (site.folder / "q.json").write_text('[{"parcel": "Q", "to": {"zip": 1}, "scans": [{}]}]')
    assert "unknown" not in site.load("parcels", "q.json")
    assert site.value("select count(policies) from etl.batches") == 0
