"""The first promised time of a shipment is kept, in whatever order its versions are loaded, replayed and undone."""

import itertools
import json
import random
from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from psycopg import sql
from psycopg.conninfo import make_conninfo

from etl import datasets
from etl.database.connecting import Database, connect
from etl.database.migrations import run_migrations
from etl.database.tables import create_tables
from etl.precalculation.catalogue import choose
from etl.provisioning import migrate
from tests.support.commands import RunEtl
from tests.support.facts import refreshed, rows_of
from tests.support.faults import Connection
from tests.support.site import Site

_files = itertools.count(1)
CREATED = "2026-03-01T00:00:00Z"
DAY = "2026-03-{:02}T00:00:00Z"


def version(shipment: str, updated: int | None, promised: int | None, **values: object) -> dict[str, Any]:
    """Return a version of a shipment, with its update and its promise on these days of March."""
    return {
        "shipment_id": shipment,
        "carrier": "A",
        "created_at": CREATED,
        "updated_at": updated and DAY.format(updated),
        "promised_at": promised and DAY.format(promised),
        **values,
    }


def load(run_etl: RunEtl, tmp_path: Path, *versions: dict[str, Any], options: tuple[str, ...] = ()) -> None:
    """Load versions as one file, without a refresh."""
    path = tmp_path / f"{next(_files)}.ndjson"
    path.write_text("".join(f"{json.dumps(each)}\n" for each in versions), encoding="utf-8")
    done = run_etl("load", "shipments", path, "--no-precalculate", *options)
    assert done.returncode == 0, done.stderr


def first_days(connection: Connection) -> dict[str, int]:
    """Return the day of the first promise of each shipment that has one."""
    rows = connection.execute(
        "select shipment_id, first_promised_at from analytics.judged_shipments() where first_promised_at is not null"
    ).fetchall()
    return {shipment: promised.astimezone(UTC).day for shipment, promised in rows}


def test_a_promise_that_was_moved_counts_as_it_was_first(
    run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """Both shares are shown; an unchanged version adds nothing, and a deleted shipment is forgotten."""
    delivered = {"status": "delivered", "delivered_at": "2026-03-07T00:00:00Z"}
    same = version("same", 1, 9, **delivered)
    load(run_etl, tmp_path, version("moved", 1, 5), same)
    load(run_etl, tmp_path, version("moved", 2, 8, **delivered), same, version("both", 1, 4), version("both", 3, 8))
    assert first_days(connection) == {"moved": 5, "both": 4, "same": 9}
    columns = "count_on_time count_late on_time_share count_first_on_time count_first_late first_on_time_share"
    refreshed(connection, "carrier_scorecard")
    assert rows_of(connection, "carrier_scorecard", columns) == [(2, 0, 1, 1, 1, Decimal("0.5"))]
    # An older version that comes late is the first promise, and its month is recomputed.
    load(run_etl, tmp_path, version("same", None, 6))
    refreshed(connection, "carrier_scorecard")
    assert rows_of(connection, "carrier_scorecard", columns) == [(2, 0, 1, 0, 2, 0)]
    connection.execute("delete from logistics.shipments where shipment_id = 'moved'")
    assert first_days(connection) == {"same": 6, "both": 4}


def test_an_older_version_with_the_promise_of_the_newest_stays_the_first(
    run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """Of two equal promises the older one was first, also when a version between them comes last."""
    load(run_etl, tmp_path, version("S1", 1, 5), version("S2", 2, 5))
    load(run_etl, tmp_path, version("S1", 3, 5, carrier="B"), version("S2", 3, 5, carrier="B"))
    load(run_etl, tmp_path, version("S1", 2, 8), version("S2", 1, 8))
    assert first_days(connection) == {"S1": 5, "S2": 8}


def test_a_merge_without_older_versions_runs_no_statement_for_first_values(site: Site) -> None:
    """What the merge wrote says whether a version lost: new and newer versions cost no further statement."""
    path = site.folder / "new.ndjson"
    path.write_text("".join(json.dumps(version(f"S{number}", 2, 5)) + "\n" for number in range(50)))
    newer = site.folder / "newer.ndjson"
    newer.write_text("".join(json.dumps(version(f"S{number}", 3, 6)) + "\n" for number in range(50)))
    older = site.folder / "older.ndjson"
    older.write_text("".join(json.dumps(version(f"S{number}", 1, 7)) + "\n" for number in range(50)))
    counted = "select count(*) from logistics.shipments where etl_first_promised_at = timestamptz '2026-03-07Z'"
    updates = "select n_tup_upd from pg_stat_all_tables where relid = 'logistics.shipments'::regclass"
    for source, firsts in ((path, 0), (newer, 0), (older, 50)):
        site.load("shipments", source, "--no-precalculate")
        assert site.value(counted) == firsts
    site.ask("select pg_stat_force_next_flush()")
    assert site.value(updates) == 100


LAST_TARIFF = """
name = "tariffs"
mode = "merge"
key = ["lane"]

[[table]]
name = "lab.tariffs"
[table.columns]
lane = { type = "text", required = true }
price = { type = "numeric", keep_first = true }
note = "text"
"""


def test_any_dataset_may_keep_first_values(site: Site) -> None:
    """The rule needs no time of versions: without `newest_by` the first value is the one that was loaded first."""
    site.define(LAST_TARIFF)
    for number, price in enumerate(("null", "3.50", "4", "5"), 1):
        path = site.folder / f"{number}.ndjson"
        path.write_text(f'{{"lane": "A", "price": {price}}}\n' * (number % 2 + 1))
        site.load("tariffs", path)
    firsts = "select price, etl_first_price, etl_first_price_place[1] from lab.tariffs"
    assert site.ask(firsts) == [(5, Decimal("3.50"), 2)]
    same = site.ask("select 1 from information_schema.columns where column_name = 'etl_first_price_version'")
    assert same == []
    # A replace is a later version; a definition with the rule reads the sources of one without it as loaded.
    site.write_definition(LAST_TARIFF.replace(", keep_first = true", ""))
    assert site.load("tariffs", site.folder / "2.ndjson")["status"] == "already_loaded"
    site.write_definition(LAST_TARIFF)
    path = site.folder / "replace.ndjson"
    path.write_text('{"lane": "A", "price": 9}\n')
    site.load("tariffs", path, "--mode", "replace")
    assert site.ask(firsts) == [(9, Decimal("3.50"), 2)]


def test_first_promises_of_a_database_before_are_kept(
    connection: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A migration moves them from their table into the rows; a view on the renamed day of the vehicles stays."""
    upgrade = command.upgrade
    connection.execute("drop database if exists earlier with (force)")
    connection.execute("create database earlier")
    try:
        earlier = Database(conninfo=make_conninfo(connection.info.dsn, dbname="earlier"))
        with connect(earlier) as before:
            with monkeypatch.context() as patched:
                patched.setattr(command, "upgrade", lambda config, _: upgrade(config, "0028"))
                run_migrations(before)
            for name in datasets.default_names(tmp_path):
                create_tables(before, datasets.find(name, tmp_path))
            (vehicle_days,) = choose(["vehicle_days"])
            before.execute(sql.SQL("create table analytics.vehicle_days as {}").format(vehicle_days.computed()))
            for name in ("", "_version", "_place"):
                before.execute(f"alter table logistics.shipments drop column etl_first_promised_at{name}")
            before.execute(
                """
                insert into logistics.shipments (shipment_id, created_at, promised_at, updated_at, etl_run, etl_batch,
                    etl_place)
                values ('S1', '2026-03-01Z', '2026-03-08Z', '2026-03-03Z', 1, 0, 1);
                insert into analytics.first_promises values ('S1', '2026-03-05Z', '2026-03-02Z');
                insert into analytics.shipment_states values (E'\\u3000held', 'open');
                alter table analytics.vehicle_days rename column source_day to day;
                alter table analytics.vehicle_days add primary key (day, vehicle_id);
                create view analytics.vehicles_of_day as select day from analytics.vehicle_days;
                """
            )
        migrate(earlier, tmp_path)
        with connect(earlier) as after:
            assert first_days(after) == {"S1": 5}
            assert after.execute("select * from analytics.vehicles_of_day").fetchall() == []
            columns = "select etl_first_promised_at_version, etl_first_promised_at_place from logistics.shipments"
            assert after.execute(columns).fetchall() == [(datetime(2026, 3, 2, tzinfo=UTC), [0, 0, 0])]
            assert after.execute("select to_regclass('analytics.first_promises')").fetchone() == (None,)
            assert after.execute("select 1 from analytics.shipment_states where status = 'held'").fetchall() == [(1,)]
    finally:
        connection.execute("drop database if exists earlier with (force)")


class Model:
    """What the versions of shipments say, as a list of all versions would: undone ones and what they replaced aside."""

    def __init__(self) -> None:
        self.versions: dict[str, list[tuple[tuple[int, tuple[int, int]], int | None, int]]] = {}

    def add(self, shipment: str, updated: int | None, promised: int | None, place: tuple[int, int]) -> None:
        """Add a version with its update, its promise, and its run and place."""
        self.versions.setdefault(shipment, []).append(((updated or 0, place), promised, place[0]))

    def undo(self, run: int) -> None:
        """Forget the versions of a run: nothing brings back those that it has replaced."""
        for shipment, versions in list(self.versions.items()):
            newest = max(versions)
            known = [each for each in versions if each[1] is not None]
            if newest[2] == run:
                del self.versions[shipment]
            elif known and min(known)[2] == run:
                self.versions[shipment] = [newest]
            else:
                self.versions[shipment] = [each for each in versions if each[2] != run]

    def first_days(self) -> Mapping[str, int]:
        """Return the day of the first promise of each shipment that has one."""
        return {
            shipment: min((order, promised) for order, promised, _ in versions if promised is not None)[1]
            for shipment, versions in self.versions.items()
            if any(promised is not None for _, promised, _ in versions)
        }


def play(site: Site, seed: int, rounds: int, *, undoes: bool) -> None:
    """Load random versions by commands of all kinds, replay refused ones and undo runs, and compare with the model."""
    chance, model = random.Random(seed), Model()
    refused: list[tuple[str, str, list[dict[str, Any]]]] = []
    sent_before: list[dict[str, Any]] = []
    # Workers are processes, which take a second to start.
    kinds = ((), ("--batch-rows", "3"), ("--atomic",), *((("--workers", "2"),) if rounds > 8 else ()))
    for number in range(1, rounds + 1):
        name, options = (
            f"{number}.ndjson",
            chance.choice(kinds),
        )
        versions = [
            version(
                f"S{chance.randrange(8)}",
                chance.choice((None, 1, 2, 3, 4, 5, 6)),
                chance.choice((None, 5, 5, 6, 7, 8)),
                note=f"{number}/{place}",
            )
            for place in range(chance.randrange(1, 12))
        ]
        sent_before += versions
        if not undoes:
            versions += chance.sample(sent_before, min(3, len(sent_before)))
        bad = (
            [each | {"pieces": -1} for each in versions[:1]]
            if chance.random() < 0.5 and "--atomic" not in options
            else []
        )
        sent = bad + versions[len(bad) :]
        (site.folder / name).write_text("".join(f"{json.dumps(each)}\n" for each in sent), encoding="utf-8")
        ended = site.run("load", "shipments", name, "--no-precalculate", *options)
        assert ended.returncode == (1 if bad else 0), ended.stderr
        run = site.value("select run from etl.runs order by number desc limit 1")
        for place, each in enumerate(versions[len(bad) :], len(bad)):
            _add(model, each, (number, place))
        refused += [(run, name, versions[:1])] if bad else []
        if refused and chance.random() < 0.4:
            of_run, source, again = refused.pop(chance.randrange(len(refused)))
            (path,) = (site.folder / "failed" / "shipments" / of_run).glob("*.ndjson")
            path.write_text("".join(f"{json.dumps(each)}\n" for each in again), encoding="utf-8")
            ended = site.run("failed", "replay", "--run", of_run, "--no-precalculate")
            assert ended.returncode == 0, ended.stderr
            _add(model, again[0], (int(source.split(".")[0]), 0))
        assert first_days(site.connection) == model.first_days(), (seed, number)
        if undoes and not refused and chance.random() < 0.25:
            ended = site.run("runs", "undo", run, "--delete-rows", "--no-precalculate")
            assert ended.returncode == 0, ended.stderr
            model.undo(number)
            assert first_days(site.connection) == model.first_days(), (seed, number, "undone")


def _add(model: Model, each: dict[str, Any], place: tuple[int, int]) -> None:
    updated, promised = (
        each[name] and datetime.fromisoformat(each[name]).day for name in ("updated_at", "promised_at")
    )
    model.add(each["shipment_id"], updated, promised, place)


@pytest.mark.parametrize("seed", [1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(2, 22))])
def test_the_oldest_version_is_the_first_promise_in_any_order(site: Site, seed: int) -> None:
    """Versions in any order, in batches or at once, refused and replayed, or taken back: the oldest promise is kept."""
    play(site, seed, 6 if seed == 1 else 25, undoes=seed % 2 == 1)
