"""A mixture from its database to its checks: what is before it, the plan, a quiet end, and what must be true then."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from etl.database.connecting import Database
from etl.embedded import Server
from etl.provisioning import migrate
from tests.support.commands import Ended
from tests.support.faults import Connection
from tests.support.mixtures import checks, copies
from tests.support.mixtures.execution import LOADER, SETTINGS, Execution, Record, as_loader
from tests.support.mixtures.exports import ACCEPT_DOZENS, FACTS, REFUSE_DOZENS, write_configuration
from tests.support.mixtures.oracle import expect
from tests.support.mixtures.plan import Grow, Plan
from tests.support.site import Site
from tests.support.waiting import until

# The file in the folder of a mixture with its plan and what happened.
STORY = "story.txt"

_MAKE_LOADER = """
do $$
begin
    create role {loader} login in role etl_loader;
exception when duplicate_object then null;
end;
$$
"""

# Each batch waits twice: after its claim, and before its commit. A load takes long enough to be met by the others.
_WAIT = """
create function public.wait() returns trigger language plpgsql as
    $$ begin perform pg_sleep({seconds}); return null; end $$;
create trigger wait after insert or update on etl.separate_batches for each statement execute function public.wait()
"""

_GRANT = "grant select, insert, update, delete on all tables in schema logistics, analytics to etl_loader"


class Mixtures:
    """Runs mixtures, each in a fresh database of a server."""

    def __init__(self, server: Server, folder: Path) -> None:
        self._address = server.url()
        self._count = 0
        with self._maintenance() as connection:
            connection.execute("create database mixture")
        template = make_conninfo(self._address, dbname="mixture")
        write_configuration(Site(template, folder))
        migrate(Database(conninfo=template), folder / "config")
        with psycopg.connect(template, autocommit=True) as connection:
            connection.execute(sql.SQL(_MAKE_LOADER).format(loader=sql.Identifier(LOADER)))
            for table in FACTS.values():
                connection.execute(sql.SQL(REFUSE_DOZENS).format(table=sql.Identifier(*table.split("."))))

    def run(self, plan: Plan, folder: Path) -> None:
        """Run a plan and what follows it; fail with the plan and all that is wrong afterwards."""
        with self._site(folder) as site:
            problems = list(_run(site, plan))
        story = folder / STORY
        story.write_text("\n".join([*problems, story.read_text()]))
        assert not problems, story.read_text()

    @contextmanager
    def _site(self, folder: Path) -> Iterator[Site]:
        self._count += 1
        name = f"mixture_{self._count}"
        conninfo = make_conninfo(self._address, dbname=name)
        with self._maintenance() as connection:
            connection.execute(sql.SQL("create database {} template mixture").format(sql.Identifier(name)))
        site = Site(conninfo, folder)
        write_configuration(site)
        try:
            yield site
        finally:
            site.close()
            with self._maintenance() as connection:
                for each in (name, copies.name(conninfo)):
                    statement = sql.SQL("drop database if exists {} with (force)")
                    connection.execute(statement.format(sql.Identifier(each)))

    def _maintenance(self) -> Connection:
        return psycopg.connect(make_conninfo(self._address, dbname="postgres"), autocommit=True)


def _run(site: Site, plan: Plan) -> Iterator[str]:
    """Run a mixture; yield what is wrong."""
    for export in plan.exports:
        export.write(site.folder)
    first = plan.exports[0]
    assert _etl(site, "load", first.dataset, first.name).returncode in {0, 1}
    if plan.slow:
        site.ask(sql.SQL(_WAIT).format(seconds=plan.slow))
    happened = Execution(site, plan).run()
    (site.folder / STORY).write_text(f"{plan}\n{happened}\n")
    if happened.errors:
        raise happened.errors[0]
    yield from happened.hung
    for outcome in happened.outcomes:
        yield from checks.check_outcome(outcome, plan)
    yield from _come_to_rest(site, plan, happened)
    # What was discarded of a run that another has replaced since is loaded, or refused, by that one again.
    discarded = site.column(
        "select id from etl.failures join etl.runs using (run) where state = 'discarded' and superseded_by is null"
    )
    expected = expect(plan, happened, discarded)
    yield from checks.check_facts(site.connection, expected)
    yield from checks.check_ledger(site.connection, plan)
    of_copy = _failures_of(copies.address(site.conninfo)) if happened.has_copy else frozenset[str]()
    yield from checks.check_failed_store(site.connection, site.store, expected, of_copy)
    yield from checks.check_nothing_left(site)


def _come_to_rest(site: Site, plan: Plan, happened: Record) -> Iterator[str]:
    """Load every source again, replay everything, and refresh; yield what does not end as it should."""
    until(lambda: not [*checks.check_sessions(site)], "the end of the sessions of killed commands")
    site.ask(_GRANT)
    grown = {act.export for act in plan.acts if isinstance(act, Grow)}
    assert grown == {export.name for export in plan.exports if export.tail}
    for export in plan.exports[1:]:
        yield from _ends_with(_etl(site, "load", export.dataset, export.name, *export.options), {0, 1}, export.name)
    for table in FACTS.values():
        site.ask(sql.SQL(ACCEPT_DOZENS).format(table=sql.Identifier(*table.split("."))))
    yield from _ends_with(_etl(site, "failed", "replay", "--all"), {0, 1}, "the replay")
    emptied = {act.aggregate for act in plan.of_kind("empty an aggregate")}
    if emptied:
        yield from _ends_with(_etl(site, "precalculate", "--full", *emptied), {0}, "the refresh in full")
    yield from _ends_with(_etl(site, "precalculate"), {0}, "the refresh")
    yield from _ends_with(_etl(site, "precalculate", "--verify"), {0}, "the comparison of the aggregates")
    # A file of a killed command whose run nobody continues, and none that is settled: they are younger.
    yield from _ends_with(_etl(site, "failed", "purge", "--older-than", "36500d"), {0}, "the purge")
    if happened.has_copy:
        yield from _copy_comes_to_rest(site, plan)


def _copy_comes_to_rest(site: Site, plan: Plan) -> Iterator[str]:
    """Load every source into the copy, too, from a failed store of its own."""
    conninfo = copies.address(site.conninfo)
    for export in plan.exports[1:]:
        words = ["load", export.dataset, export.name, *export.options, "--failed-dir", "failed_copy"]
        yield from _ends_with(_etl(site, *words, conninfo=conninfo), {0, 1}, f"{export.name} in the copy")
    with psycopg.connect(conninfo, autocommit=True) as connection:
        yield from checks.check_copy(connection, plan)


def _failures_of(conninfo: str) -> frozenset[str]:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        return frozenset(failure for (failure,) in connection.execute("select id from etl.failures"))


def _etl(site: Site, *words: str, conninfo: str | None = None) -> Ended:
    conninfo = as_loader(conninfo or site.conninfo)
    return site.run(*words, env=SETTINGS, conninfo=conninfo, may_be_faulty=True)


def _ends_with(ended: Ended, codes: set[int], what: str) -> Iterator[str]:
    if ended.returncode not in codes or "Traceback" in ended.stderr:
        yield f"{what} ended with {ended.returncode} at rest: {ended.stdout[-1500:]} {ended.stderr[-3000:]}"
