"""What a load does with records that are odd, as its policies say."""

import json
from typing import Any

import pytest

from tests.support.site import Site

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


@pytest.mark.parametrize("decoder", ["auto", "ijson"])
def test_policies_decide_and_are_counted(site: Site, decoder: str) -> None:
    """NUL and unknown members are refused, put right or named as the policy says, by a flag or by the definition."""
    site.define(NOTES)

    def load(records: list[dict[str, Any]], *options: str) -> dict[str, Any]:
        (site.folder / "notes.json").write_text(json.dumps(records))
        site.ask("truncate logistics.notes, logistics.note_lines")
        options = ("--no-precalculate", "--max-rejected", "100%", "--decoder", decoder, *options)
        summary = site.load("notes", "notes.json", *options)
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
    rows = site.ask("select id, city, extra::text, tags from logistics.notes order by id")
    assert rows == [
        ("A", "xy", None, None),
        ("B", None, '{"k": [""]}', ["t"]),
        ("C", None, None, None),
        ("E",) + (None,) * 3,
    ]
    assert site.ask("select sku from logistics.note_lines") == [("s",)]

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
    site.write_definition('on_unknown = "reject"\n' + NOTES)
    assert load(new, "--force")["records"]["rejected"] == 4
    reasons = [
        each["reason"]
        for stored in (site.folder / "failed").rglob("*.json")
        for each in json.loads(stored.read_text())["records"]
        if each["sqlstate"] == "23514"
    ]
    assert sorted(reasons) == sorted(f"the definition does not know the member {name}" for name in names)
