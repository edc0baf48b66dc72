"""An interrupted `--atomic` or `replace` run whose tables in `etl_staging` are gone, emptied or not its own."""

import json
import shutil
from typing import Any, LiteralString

import pytest
from psycopg import sql

from tests.support.definitions import ITEMS
from tests.support.site import Site

MERGED = ITEMS.replace('mode = "replace"', 'mode = "merge"')
OPTIONS = {
    "atomic merge": ("--atomic",),
    "replace": ("--mode", "replace"),
    "first": ("--atomic", "--on-duplicate", "first"),
    "newest": ("--atomic", "--mode", "append", "--on-duplicate", "newest"),
    "rejected": ("--atomic", "--on-duplicate", "reject"),
}
DAMAGES: dict[str, LiteralString] = {
    "schema gone": "drop schema etl_staging cascade",
    "schema emptied": "drop schema etl_staging cascade; create schema etl_staging",
    "rows gone": "delete from {records} where id = 7",
    "children gone": "delete from {children} where id = 8 and part = 1",
    "emptied": "truncate {records}, {children}",
    "rows of another": "insert into {records} select id + 1000, v, n, etl_run, etl_batch + 1, etl_place from {records}",
    "rows twice": "insert into {children} select * from {children}",
}

COMMON = [("first", damage) for damage in ("schema gone", "rows gone", "rows of another", "rows twice")]
OTHERS = [
    *(("first", damage) for damage in DAMAGES if ("first", damage) not in COMMON),
    *((options, "emptied") for options in OPTIONS if options != "first"),
]
CASES = [*COMMON, *(pytest.param(*each, marks=pytest.mark.slow) for each in OTHERS)]


def _items(of: str) -> list[dict[str, Any]]:
    """Return 40 items; two come again, and two of the first and of the seventh five cannot load."""
    items: list[dict[str, Any]] = [{"id": n, "v": of, "n": n, "parts": [1, n]} for n in range(40)]
    for n in (3, 4, 33, 34):
        items[n]["n"] = -1
    items[20] |= {"id": 10, "v": "again", "parts": [5]}
    items[30] |= {"id": 11, "v": "again", "parts": [6, 6]}
    return items


def _write(site: Site, name: str, items: list[dict[str, Any]]) -> None:
    (site.folder / name).write_text("".join(json.dumps(item) + "\n" for item in items))


def _facts(site: Site) -> tuple[list[Any], list[Any]]:
    """Return all rows of both tables without their lineage."""
    return (
        site.ask("select id, v, n from lab.items order by id"),
        site.ask("select id, part from lab.item_parts order by id, part"),
    )


def _interrupted(site: Site, *options: str) -> tuple[str, ...]:
    """Load a source by batches of five until it has too many rejected records; return the options that continue."""
    every = (*options, "--batch-rows", "5", "--workers", "1")
    _write(site, "new.ndjson", _items("new"))
    assert site.load("items", "new.ndjson", *every, "--max-rejected", "3")["exit_code"] == 5
    return (*every, "--max-rejected", "20")


def _staging(site: Site) -> dict[str, sql.Identifier]:
    """Return the names of the staging tables of the records and of their children."""
    [run] = site.column("select run from etl.runs where is_atomic and published_at is null")
    names = {"records": f"{run}_0", "children": f"{run}_1", "keys": f"{run}_keys_0", "refused": f"{run}_refused_0"}
    return {name: sql.Identifier("etl_staging", table) for name, table in names.items()}


@pytest.mark.parametrize(("options", "damage"), CASES)
def test_staged_rows_that_are_gone_load_again(site: Site, options: str, damage: str) -> None:
    """The same command publishes all rows of the source, as a run without an interruption does."""
    site.define(MERGED)
    _write(site, "new.ndjson", _items("new"))
    site.load("items", "new.ndjson", *OPTIONS[options], "--batch-rows", "5", "--max-rejected", "20")
    expected = _facts(site)
    assert len(expected[0]) > 30
    site.forget_loads("items")
    site.ask("truncate lab.items, lab.item_parts")
    shutil.rmtree(site.folder / "failed")
    again = _interrupted(site, *OPTIONS[options])
    site.ask(sql.SQL(DAMAGES[damage]).format(**_staging(site)))
    done = site.run("load", "items", "new.ndjson", *again, "--json")
    assert done.returncode == 1, done.stderr
    assert _facts(site) == expected
    if damage in {"rows gone", "children gone"}:  # Only their batch loads again.
        assert done.summary["records"]["skipped"] == 30
    pending = site.column("select id from etl.failures where state = 'pending'")
    assert sorted(pending) == sorted(path.stem for path in (site.folder / "failed").glob("items/*/*.ndjson"))
    assert site.ask("select relname from pg_class where relnamespace = 'etl_staging'::regnamespace") == []


@pytest.mark.parametrize(
    ("options", "damage"),
    [
        ("first", "delete from {keys} where id = 11"),
        ("newest", "drop table {keys}"),
        ("rejected", "truncate {keys}"),
    ],
)
def test_keys_that_are_gone_are_taken_from_the_staged_rows(site: Site, options: str, damage: LiteralString) -> None:
    """A record whose key an earlier record has is still known when the table of the keys is not there any more."""
    site.define(MERGED)
    again = _interrupted(site, *OPTIONS[options])
    site.ask(sql.SQL(damage).format(**_staging(site)))
    items = [*_items("new"), {"id": 11, "v": "at last", "n": 1, "parts": [7]}]
    _write(site, "new.ndjson", items)
    assert site.run("load", "items", "new.ndjson", *again).returncode == 1
    assert site.ask("select v, n from lab.items where id = 11") == [
        ("at last", 1) if options == "newest" else ("new", 11)
    ]
    assert len(_facts(site)[0]) == 34


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param("truncate {refused}", marks=pytest.mark.slow),
        "delete from {refused} where id = 3",
        "drop schema etl_staging cascade",
    ],
)
def test_refused_keys_that_are_gone_are_noted_again(site: Site, damage: LiteralString) -> None:
    """The batches of a replace that noted them load again: the rows of rejected records stay, other absent rows go."""
    site.define(MERGED)
    _write(site, "old.ndjson", [{"id": n, "v": "old"} for n in range(45)])
    site.load("items", "old.ndjson", *OPTIONS["replace"])
    again = _interrupted(site, *OPTIONS["replace"])
    site.ask(sql.SQL(damage).format(**_staging(site)))
    assert site.run("load", "items", "new.ndjson", *again).returncode == 1
    rows = dict(site.ask("select id, v from lab.items"))
    assert [n for n, v in rows.items() if v == "old"] == [3, 4, 33, 34]
    assert 44 not in rows


def test_rows_that_vanish_before_the_publication_end_with_4(site: Site) -> None:
    """If somebody deletes staged rows while the load runs, nothing is published and the same command loads them."""
    site.define(MERGED)
    again = _interrupted(site, "--atomic")
    table = _staging(site)["children"]
    site.ask(
        sql.SQL(
            "create function lab.lose() returns trigger language plpgsql as $$ begin"
            " delete from {table} where id = 2; return null; end $$;"
            "create trigger lose after insert on {table} for each statement execute function lab.lose()"
        ).format(table=table)
    )
    done = site.run("load", "items", "new.ndjson", *again)
    assert (done.returncode, site.value("select count(*) from lab.items")) == (4, 0)
    assert "for lab.item_parts, so nothing is published" in done.stderr
    site.ask(sql.SQL("drop trigger lose on {}").format(table))
    assert site.run("load", "items", "new.ndjson", *again).returncode == 1
    assert site.value("select count(*) from lab.item_parts") == 67


def test_a_schema_that_may_not_be_made_is_named(site: Site) -> None:
    """Without `etl_staging` a load ends with 2 when its role may not make it; `etl db migrate` makes it."""
    site.define(MERGED)
    site.ask("drop schema etl_staging cascade")
    site.ask("create role lab_loader login in role etl_loader; grant usage on schema lab to lab_loader")
    site.ask("grant select, insert, update, delete on all tables in schema lab to lab_loader")
    _write(site, "new.ndjson", [{"id": 1, "v": "new"}])
    as_loader = {"PGOPTIONS": "-c role=lab_loader"}
    done = site.run("load", "items", "new.ndjson", "--atomic", env=as_loader)
    assert done.returncode == 2
    assert "the schema etl_staging is missing" in done.stderr
    assert "etl db migrate" in done.stderr
    assert "create on schema etl_staging" in site.run("db", "check", env=as_loader).stdout
    assert site.run("db", "migrate").returncode == 0
    assert site.run("load", "items", "new.ndjson", "--atomic", env=as_loader).returncode == 0
    assert site.value("select count(*) from lab.items") == 1
    site.ask("drop owned by lab_loader; drop role lab_loader")
