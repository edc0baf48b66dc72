"""The state of a site after a load: whether it is sound, and whether it equals that of a clean load."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from psycopg import sql

from tests.support.faults import Connection
from tests.support.site import Site

OF_BATCHES = {"analytics.shipment_batches", "analytics.shipment_orphans"}
"""Aggregates that say which batch wrote the rows, which is another one after a load was cut off. Their counts are those
of data_quality, and their own tests verify them."""


@dataclass(frozen=True, kw_only=True)
class State:
    """The content of a database and its failed store, with counts: rows without lineage, and rejected records."""

    facts: Mapping[str, Counter[str]]
    refused: Counter[tuple[Any, ...]]
    aggregates: Mapping[str, Counter[str]]

    def lost(self, clean: "State") -> int:
        """Count the rows and rejected records of a clean load that are not here."""
        return sum((one - other).total() for one, other in _pairs(clean, self))

    def doubled(self, clean: "State") -> int:
        """Count the rows and rejected records that no clean load has, or has less often."""
        return sum((other - one).total() for one, other in _pairs(clean, self))


def _pairs(one: State, other: State) -> list[tuple[Counter[Any], Counter[Any]]]:
    return [*((one.facts[name], other.facts[name]) for name in one.facts), (one.refused, other.refused)]


def state(site: Site) -> State:
    """Return the state of a site."""
    with site.connect() as connection:
        facts = {name: _rows(connection, name) for name in _tables(connection, "logistics")}
        names = [name for name in _tables(connection, "analytics") if name not in OF_BATCHES]
        aggregates = {name: _rows(connection, name) for name in names}
        return State(facts=facts, refused=Counter(_refused(site, connection)), aggregates=aggregates)


def _tables(connection: Connection, schema: str) -> list[str]:
    query = "select table_name from information_schema.tables where table_schema = %s and table_type = 'BASE TABLE'"
    return [f"{schema}.{name}" for (name,) in connection.execute(query, [schema])]


def _rows(connection: Connection, table: str) -> Counter[str]:
    query = """
        select column_name from information_schema.columns
        where table_schema || '.' || table_name = %s and column_name !~ '^etl_' order by ordinal_position
    """
    names = sql.SQL(", ").join(sql.Identifier(name) for (name,) in connection.execute(query, [table]))
    rows = sql.SQL("select row({})::text from {}").format(names, sql.Identifier(*table.split(".")))
    return Counter(row for (row,) in connection.execute(rows))


def _refused(site: Site, connection: Connection) -> Iterator[tuple[Any, ...]]:
    """Yield each record that waits in the failed store; check that each file in the ledger is whole."""
    query = "select dataset, run, id, kind, count_records, sha256 from etl.failures where state = 'pending'"
    for dataset, run, failure, kind, count, sha256 in connection.execute(query).fetchall():
        path = site.store / dataset / run / f"{failure}.ndjson"
        lines = path.read_bytes()
        details = json.loads(path.with_suffix(".json").read_bytes())
        assert hashlib.sha256(lines).hexdigest() == sha256 == details["sha256"]
        assert (details["id"], details["run"], details["kind"]) == (failure, run, kind)
        assert len(lines.splitlines()) == len(details["records"]) == count
        for text, place in zip(lines.splitlines(), details["records"], strict=True):
            yield dataset, kind, *place.values(), text


def assert_sound(site: Site) -> None:
    """The ledger, the facts and the failed store agree at any point of a load.

    A file that is not in the ledger may exist: its batch was not entered.
    """
    with site.connect() as connection, connection.transaction():
        # One snapshot, because the backend of a killed load may still commit.
        connection.execute("set transaction isolation level repeatable read")
        balances = (
            "select count(*) from etl.batches where count_records <> count_loaded + count_rejected + count_failed"
        )
        assert connection.execute(balances).fetchone() == (0,)
        query = """
            select run, dataset, mode, (is_atomic and published_at is null) or undone_at is not null,
                coalesce(sum(count_loaded), 0)::integer, coalesce(sum(count_rejected + count_failed), 0)::integer,
                (
                    select coalesce(sum(count_records), 0)::integer from etl.failures f
                    where f.run = r.run and state <> 'replayed'
                )
            from etl.runs r left join etl.batches b using (run) group by run, dataset, mode
        """
        appended = Counter[str]()
        for run, dataset, mode, is_hidden, loaded, refused, stored in connection.execute(query).fetchall():
            assert refused == stored, f"the ledger counts {refused} refused records of {run} and its failures {stored}"
            appended[dataset] += 0 if mode == "merge" or is_hidden else loaded
        for (rows,) in connection.execute("select count(*) from logistics.deliveries"):
            assert rows == appended["deliveries"]
        for _ in _refused(site, connection):
            pass


def assert_complete(site: Site, dataset: str, source: Path, records: int) -> None:
    """The site is sound, the ledger covers the source without gap or overlap, and the store has no other file."""
    assert_sound(site)
    content = source.read_bytes()
    query = """
        select "offset", bytes, first_record, count_records from etl.batches join etl.runs using (run)
        where dataset = %s and finished_at is not null order by "offset"
    """
    batches = site.ask(query, [dataset])
    assert sum(count for *_, count in batches) == records
    ends = [(0, 0, 1, 0), *batches, (len(content), 0, records + 1, 0)]
    for (offset, length, first, count), (next_offset, _, next_first, _) in pairwise(ends):
        assert next_first == first + count
        assert next_offset >= offset + length
        assert not content[offset + length : next_offset].strip(b"[], \n"), "the ledger leaves records out"
    named = [name for (name,) in site.ask("select id from etl.failures")]
    found = sorted(path.name for path in site.store.rglob("*") if path.is_file() and path.parent.name != "aside")
    assert found == sorted(f"{name}.{ending}" for name in named for ending in ("json", "ndjson"))
