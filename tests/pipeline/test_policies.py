"""What a load does with records that are odd, as its policies say."""

import json
from typing import Any

import pytest
from psycopg import sql

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
        options = ("--no-precalculate", "--max-rejected", "100%", "--allow-empty", "--decoder", decoder, *options)
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
    assert "unknown" not in load(new, "--on-unknown", "ignore")
    warned = load(new, "--force")
    names = ['"\\ud800\\u0000"', "colour", 'lines."a.b"', "to.zip"]
    assert (warned["records"]["loaded"], warned["unknown"]) == (5, dict.fromkeys(names, 1))
    site.write_definition('on_unknown = "reject"\n' + NOTES)
    assert load(new, "--force")["records"]["rejected"] == 4
    reasons = [
        each["reason"]
        for stored in (site.folder / "failed").rglob("*.json")
        for each in json.loads(stored.read_text())["records"]
        if each["sqlstate"] == "23514"
    ]
    assert sorted(reasons) == sorted(f"the definition does not know the member {name}" for name in names)


ACCOUNTS = """
name = "accounts"
mode = "append"
key = ["id"]
[[table]]
name = "lab.accounts"
[table.columns]
id = {{ type = "bigint", required = true{exact} }}
amount = "numeric"
share = "double"
note = "text"
[[table]]
name = "lab.account_lines"
each = "lines"
columns = {{ id = {{ path = "^.id", type = "bigint" }}, no = "integer" }}
"""

TEXTS = [
    {"id": "001000", "amount": "+1.50", "share": " 0.5", "note": "007", "lines": [{"no": "01"}, {"no": "1e1"}]},
    {"id": "1001", "amount": "1.50", "share": "0.50", "lines": [{"no": "1"}, {"no": 1}]},
    {"id": 1002, "amount": 1.50, "share": 0.5},
    {"id": "-0", "amount": "-0.0", "share": "-0"},
]


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--decoder", "ijson"),
        pytest.param(("--workers", "2", "--batch-rows", "1"), marks=pytest.mark.slow),
        ("--mode", "merge"),
        ("--atomic",),
        ("--dry-run",),
    ],
)
def test_texts_that_are_stored_otherwise_are_counted(site: Site, options: tuple[str, ...]) -> None:
    """The summary counts for each column the texts that it does not give back as they were written."""
    site.define(ACCOUNTS.format(exact=""))
    (site.folder / "a.json").write_text(json.dumps(TEXTS))
    done = site.run("--log-format", "json", "load", "accounts", "a.json", "--json", *options)
    expected = {
        "lab.accounts.id": 2,
        "lab.accounts.amount": 2,
        "lab.accounts.share": 1,
        "lab.account_lines.no": 2,
        "lab.account_lines.id": 2,
    }
    assert done.summary["coerced"] == expected
    [event] = done.events("texts_coerced")
    assert event["texts"] == expected
    said = site.run("load", "accounts", "a.json", "--force", "--mode", "merge").stdout
    assert "lab.account_lines.no 2" in said
    if "--dry-run" not in options:
        stored = "select id::text, amount::text, share::text from lab.accounts order by etl_batch, etl_place"
        assert site.ask(stored)[:2] == [("1000", "1.50", "0.5"), ("1001", "1.50", "0.5")]


def test_coerced_texts_of_each_attempt_are_in_the_ledger(site: Site) -> None:
    """Each attempt counts the texts of its own batches, and a rejected record counts none."""
    site.define(ACCOUNTS.format(exact=""))
    records = [{"id": f"00{n}", "amount": "x" if n == 3 else "01"} for n in range(1, 6)]
    (site.folder / "a.json").write_text(json.dumps(records))
    load = ("accounts", "a.json", "--batch-rows", "1")
    assert site.load(*load, "--limit", "2")["coerced"] == {"lab.accounts.id": 2, "lab.accounts.amount": 2}
    assert site.load(*load)["coerced"] == {"lab.accounts.id": 2, "lab.accounts.amount": 2}
    assert site.value("select sum((policies -> 'coerced' ->> 'lab.accounts.id')::int)::int from etl.batches") == 4
    assert "coerced" not in site.load(*load)


@pytest.mark.parametrize("decoder", ["auto", "ijson"])
def test_an_exact_column_refuses_a_text_that_would_change(site: Site, decoder: str) -> None:
    """With `exact` such a text is a misfit, which `misfits_to` can take; other texts and numbers load."""
    site.define(
        ACCOUNTS.format(exact=", exact = true").replace(
            '"numeric"', '{ type = "numeric", exact = true, misfits_to = "note" }'
        )
    )
    (site.folder / "a.json").write_text(json.dumps([*TEXTS, {"id": "5", "amount": "05"}]))
    summary = site.load("accounts", "a.json", "--decoder", decoder)
    assert summary["records"]["rejected"] == 2
    assert not summary.get("coerced")
    assert site.ask("select id, amount::text, note from lab.accounts order by id") == [
        (5, None, "05"),
        (1001, "1.50", None),
        (1002, "1.5", None),
    ]
    [record, _] = site.failures.records(summary["run"])
    assert (record["sqlstate"], record["column"]) == ("22P02", "id")
    assert "because the column is exact" in record["reason"]


def test_exact_is_for_numbers(site: Site) -> None:
    """A definition with `exact` for another type ends with exit code 2."""
    site.write_definition(ACCOUNTS.format(exact="").replace('note = "text"', 'note = { type = "text", exact = true }'))
    done = site.run("load", "accounts", "a.json")
    assert (done.returncode, "column note: exact expects a type of numbers, not text" in done.error) == (2, True)


NARROWER = {
    "amount numeric(10, 2)": "numeric(10,2) rounds to 2 digits after the point",
    "amount real": "real rounds to 6 digits",
    "amount double precision": "double precision rounds to 15 digits",
    "amount lab.money": "numeric(8,1) rounds to 1 digits after the point",
    "id real": "real rounds to 6 digits",
    "note char(8)": "character(8) pads to 8 characters",
    "note lab.code": "character(4) pads to 4 characters",
    "note name": "name cuts to 63 bytes",
    "share real": "real rounds to 6 digits",
    "at timestamptz(0)": "timestamp(0) with time zone rounds to 0 digits of a second",
    "at timestamp": "timestamp without time zone drops the zone",
    "at date": "date cuts the time of day",
}


@pytest.mark.parametrize(
    "change", [change if "lab." in change else pytest.param(change, marks=pytest.mark.slow) for change in NARROWER]
)
def test_a_narrower_column_is_named_once_a_run(site: Site, change: str) -> None:
    """A column that rounds, pads or cuts values is in the log and in the summary of each load, with what it does."""
    site.define(ACCOUNTS.format(exact="").replace('note = "text"', 'note = "text"\nat = "timestamptz"'))
    column, _, type_name = change.partition(" ")
    site.ask(
        "create domain lab.cents as numeric(8, 1); create domain lab.money as lab.cents;"
        "create domain lab.code as char(4)"
    )
    site.ask(
        sql.SQL("alter table lab.accounts alter {} type {} using null").format(
            sql.Identifier(column), sql.SQL(type_name)
        )
    )
    (site.folder / "a.json").write_text(json.dumps([{"id": n, "amount": 1.5} for n in range(3)]))
    for options in (("--dry-run",), ("--batch-rows", "1")):
        done = site.run("--log-format", "json", "load", "accounts", "a.json", "--json", *options)
        assert done.summary["narrowed"] == {f"lab.accounts.{column}": NARROWER[change]}
        [event] = done.events("columns_narrower")
        assert event["columns"] == done.summary["narrowed"]
    assert f"lab.accounts.{column} ({NARROWER[change]})" in site.run("load", "accounts", "a.json", "--dry-run").stdout


def test_columns_that_keep_every_value_are_not_named(site: Site) -> None:
    """Wider and equal types are silent."""
    site.define(ACCOUNTS.format(exact=""))
    site.ask(
        "alter table lab.accounts alter id type numeric(20), alter note type varchar(9), alter amount type numeric"
    )
    (site.folder / "a.json").write_text('[{"id": 1}]')
    assert "narrowed" not in site.load("accounts", "a.json")
