"""What a load does with records that are odd, as its policies say."""

import json
from pathlib import Path
from typing import Any

import pytest

from etl.database.tables import create_tables
from etl.datasets import Dataset, read
from etl.ingestion.transform.unknown import known, unknown
from etl.ingestion.values import KEY
from tests.support.commands import RunEtl
from tests.support.faults import Connection

NOTES = """
name = "notes"
[[table]]
name = "logistics.notes"
[table.columns]
id = { type = "text", required = true }
city = { path = "to.city", type = "text" }
extra = "jsonb"
tags = "text[]"
[[table]]
name = "logistics.note_lines"
each = "lines"
columns = { id = { path = "^.id", type = "text" }, sku = "text" }
"""


def _define(folder: Path, text: str = NOTES) -> Dataset:
    path = folder / "notes.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return read(path)


@pytest.mark.parametrize("decoder", ["auto", "ijson"])
def test_policies_decide_and_are_counted(run_etl: RunEtl, postgresql: Connection, tmp_path: Path, decoder: str) -> None:
    """NUL and unknown members are refused, put right or named as the policy says, by a flag or by the definition."""
    postgresql.autocommit = True
    folder = tmp_path / "config" / "datasets"
    create_tables(postgresql, _define(folder))

    def load(records: list[dict[str, Any]], *options: str) -> dict[str, Any]:
        (tmp_path / "notes.json").write_text(json.dumps(records))
        postgresql.execute("truncate logistics.notes, logistics.note_lines")
        options = ("--json", "--no-precalculate", "--max-rejected", "100%", "--decoder", decoder, *options)
        done = run_etl("load", "notes", "notes.json", *options)
        summary: dict[str, Any] = json.loads(done.stdout.splitlines()[0])
        counts = summary["records"]
        assert counts["read"] == counts["loaded"] + counts["rejected"] == len(records)
        return summary

    nul: list[dict[str, Any]] = [
        {"id": "A\0", "to": {"city": "x\0y"}},
        {"id": "B", "extra": {"k\0": ["\0"]}, "tags": ["\0t"]},
        {"id": "C", "lines": [{"sku": "\0s"}]},
        {"id": "D", "to": {"city": "\ud800\0"}},
        {"id": "E"},
    ]
    refused = load(nul)
    assert refused["records"]["rejected"] == 4
    assert "policies" not in refused
    stripped = load(nul, "--on-nul", "strip", "--force")
    assert (stripped["records"]["rejected"], stripped["policies"]) == (1, {"nul_stripped": 3})
    rows = postgresql.execute("select id, city, extra::text, tags from logistics.notes order by id").fetchall()
    assert rows == [
        ("A", "xy", None, None),
        ("B", None, '{"k": [""]}', ["t"]),
        ("C", None, None, None),
        ("E",) + (None,) * 3,
    ]
    assert postgresql.execute("select sku from logistics.note_lines").fetchall() == [("s",)]

    new: list[dict[str, Any]] = [
        {"id": "A", "colour": "red", "extra": {"any": 1}},
        {"id": "B", "to": {"city": "x", "zip": "1"}},
        {"id": "C", "lines": [{"sku": "s"}, {"sku": "t", "a.b": {"c": 1}}]},
        {"id": "D", "to": None, "lines": []},
        {"id": "E", "\ud800\0": 1},
    ]
    assert "policies" not in load(new)
    warned = load(new, "--on-unknown", "warn", "--force")
    names = ['"\\ud800\\u0000"', "colour", 'lines."a.b"', "to.zip"]
    assert (warned["records"]["loaded"], warned["policies"]) == (5, {"unknown": names})
    _define(folder, 'on_unknown = "reject"\n' + NOTES)
    assert load(new, "--force")["records"]["rejected"] == 4
    reasons = [
        each["reason"]
        for stored in (tmp_path / "failed").rglob("*.json")
        for each in json.loads(stored.read_text())["records"]
        if each["sqlstate"] == "23514"
    ]
    assert sorted(reasons) == sorted(f"the definition does not know the member {name}" for name in names)


def test_what_a_definition_leads_to_is_known(tmp_path: Path) -> None:
    """Members on the way of a column, an array or a condition are known, and all below what a column takes."""
    dataset = _define(
        tmp_path,
        """
name = "notes"
[[table]]
name = "a.b"
where = { kind = "x" }
columns = { c = { path = "legs.0.code", type = "text" }, d = { value = "v", type = "text" }, e = "jsonb" }
[[table]]
name = "a.d"
each = ["legs", "at.stops"]
columns = { a = { path = "^.^.id", type = "text" }, b = { path = "^.no", type = "text" }, c = "text" }
""",
    )
    record = {
        "kind": "x",
        "id": 1,
        "e": {"any": [{"thing": 1}]},
        "d": 1,
        KEY: "k",
        "legs": [{"code": 1, "no": 2, "at": {"stops": [{"c": 1, "d": 2}], "by": 1}, "mode": 3}, 5],
    }
    assert list(unknown(record, known(dataset))) == ["d", "legs.at.stops.d", "legs.at.by", "legs.mode"]
    whole = NOTES.replace('tags = "text[]"', 'raw = { path = ".", type = "jsonb" }')
    assert known(_define(tmp_path, whole)) is None
