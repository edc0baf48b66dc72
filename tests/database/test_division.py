"""A table that is in use becomes a partitioned one."""

import json
import re
from itertools import count
from typing import Any

import psycopg
import pytest

from etl.database.connecting import Database, connect
from etl.database.division import Division
from etl.datasets import read
from tests.database.test_partitions import HASHED, VISITS, _define, _partitions, _visits, _write
from tests.support.site import Site

DIVIDED = VISITS.replace("MODE", "merge")
BY_HASH = HASHED.replace("MODE", "merge")
PLAIN = DIVIDED.replace('partition_by = "at"\n', "")
EXTRAS = """
create table public.carriers (id integer primary key);
insert into public.carriers select generate_series(0, 6);
alter table logistics.visits add constraint light check (weight < 100), add column note text default 'none',
    add constraint carrier foreign key (weight) references public.carriers;
create index "Weights" on logistics.visits (weight) where weight > 2;
create unique index own_key on logistics.visits (at, id);
comment on index logistics.own_key is 'the other way';
comment on table logistics.visits is 'visits of all hubs';
comment on column logistics.visits.weight is 'kg';
create view public.heavy with (security_barrier = true) as select id, at from logistics.visits where weight > 3;
grant select on public.heavy to etl_analyst;
alter table logistics.visits enable row level security;
create policy recent on logistics.visits for select to etl_analyst using (at >= '2024-06-01');
grant update (weight) on logistics.visits to etl_analyst;
create function public.stamp() returns trigger language plpgsql as $$ begin new.note := 'seen'; return new; end $$;
create trigger stamp before insert on logistics.visits for each row execute function public.stamp();
"""


def _plain(site: Site, divided: str = DIVIDED) -> None:
    """Make the tables and the aggregate as they are before, and load visits."""
    _define(site, "merge")
    site.ask("drop table logistics.visits, logistics.visit_lines")
    site.ask("delete from etl.partitions; delete from etl.partitioned_facts")
    site.define(re.sub("partition_.*\n", "", divided))
    assert site.run("db", "migrate").returncode == 0
    loaded = site.run("load", "visits", _write(site, _visits()))
    assert loaded.returncode == 0, loaded.stderr
    site.write_definition(divided)


def _contents(site: Site) -> list[Any]:
    return [
        site.ask("select * from logistics.visits order by id"),
        site.ask("select * from logistics.visit_lines order by id, line"),
    ]


def test_a_table_in_use_becomes_a_partitioned_one(site: Site) -> None:
    """All that the table has is there afterwards, under the same names; loads, aggregates and retention work."""
    _plain(site)
    site.connection.execute(EXTRAS.encode())
    before = _contents(site)
    indexes = "select indexname from pg_indexes where schemaname = 'logistics' and tablename = 'visits' order by 1"
    had = site.column(indexes)
    done = site.run("dataset", "partition", "visits", "--json")
    assert done.returncode == 0, done.stderr
    assert [json.loads(line)["table"] for line in done.stdout.splitlines()] == [
        "logistics.visits",
        "logistics.visit_lines",
    ]
    assert _contents(site) == before
    assert len(_partitions(site)) == 28
    assert site.column(indexes) == had
    assert site.value("select count(*) from public.heavy") == sum(each[2] > 3 for each in before[0])
    assert site.value("select obj_description('logistics.own_key'::regclass)") == "the other way"
    assert site.value("select reloptions from pg_class where relname = 'heavy'") == ["security_barrier=true"]
    assert site.value("select has_table_privilege('etl_loader', 'logistics.visits', 'insert')")
    assert site.value("select has_column_privilege('etl_analyst', 'logistics.visits', 'weight', 'update')")
    assert site.value("select has_table_privilege('etl_analyst', 'public.heavy', 'select')")
    assert site.column("select policyname from pg_policies where tablename = 'visits'") == ["recent"]
    assert site.value("select relrowsecurity from pg_class where oid = 'logistics.visits'::regclass")
    with pytest.raises(psycopg.errors.CheckViolation, match="light"):
        site.ask("update logistics.visits set weight = 100")
    with pytest.raises(psycopg.errors.ForeignKeyViolation, match="carrier"):
        site.ask("update logistics.visits set weight = 50")
    for words in (("dataset", "check", "visits"), ("db", "migrate"), ("precalculate", "visit_months", "--verify")):
        checked = site.run(*words)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    late = [{"id": 7000, "at": "2021-05-05T00:00Z", "weight": 5, "lines": [{}]}]
    assert site.run("load", "visits", _write(site, late, "late.json")).returncode == 0
    assert site.value("select note from logistics.visits where id = 7000") == "seen"
    assert site.run("precalculate", "visit_months", "--verify").returncode == 0
    assert site.run("retention", "visits", "--keep", "1d").returncode == 0
    assert site.value("select count(*) from analytics.visit_months") == 0
    again = site.run("dataset", "partition", "visits")
    assert again.stdout == "there is nothing to do for the tables of visits\n"
    assert site.value("select to_regnamespace('etl_partitioning') is null")
    assert site.value("select count(*) from pg_class where relname ~ 'etl_division'") == 0


def test_a_table_in_use_is_divided_by_the_hash_of_its_key(site: Site) -> None:
    """The rows are in the partitions of their keys, child rows beside their records; loads and aggregates work."""
    _plain(site, BY_HASH)
    before = _contents(site)
    done = site.run("dataset", "partition", "visits")
    assert done.returncode == 0, done.stderr
    assert _contents(site) == before
    for table in ("visits", "visit_lines"):
        assert _partitions(site, f"logistics.{table}") == [f"{table}_h{number}" for number in range(3)]
        assert all(site.value(f"select count(*) from logistics.{table}_h{number}") for number in range(3))  # noqa: S608 - a constant
    moved = [{"id": 7, "at": "2031-05-05T00:00Z", "weight": 6, "lines": [{}] * 3}]
    assert site.run("load", "visits", _write(site, moved, "moved.json")).returncode == 0
    assert site.ask(
        "select weight, (select count(*) from logistics.visit_lines where id = 7) from logistics.visits where id = 7"
    ) == [(6, 3)]
    assert site.value("select count(*) from logistics.visits") == len(before[0])
    site.ask("update logistics.visits_h1 set weight = 99")
    assert site.run("precalculate", "visit_months").returncode == 0
    assert site.run("precalculate", "visit_months", "--verify").returncode == 0
    refused = site.run("retention", "visits", "--keep", "1d")
    assert (refused.returncode, "partition_by" in refused.stderr) == (2, True), refused.stderr
    assert site.run("dataset", "partition", "visits").stdout == "there is nothing to do for the tables of visits\n"


class Killed(Exception):
    """The process of a division has ended at once."""


def _divide(site: Site, most: int | None = None) -> bool:
    """Divide the tables; the process ends before its statement number `most`. Return whether it came to its end."""
    dataset = read(site.folder / "config" / "datasets" / "visits.toml")
    connection = connect(Database(conninfo=site.conninfo))
    execute, numbers = connection.execute, count(1)

    def counted(*arguments: Any, **options: Any) -> psycopg.Cursor[Any]:
        if next(numbers) == most:
            connection.close()
            raise Killed
        return execute(*arguments, **options)

    try:
        vars(connection)["execute"] = counted
        for table in dataset.tables:
            Division(connection=connection, dataset=dataset, table=table, sleep=lambda _: None).run()
    except Killed:
        return False
    finally:
        connection.close()
    return True


@pytest.mark.parametrize(
    "divided", [pytest.param(DIVIDED, id="months"), pytest.param(BY_HASH, marks=pytest.mark.slow, id="hash")]
)
def test_a_division_that_is_killed_at_any_statement_is_continued(
    site: Site, monkeypatch: pytest.MonkeyPatch, divided: str
) -> None:
    """Whichever statement was the last one, no row is lost or doubled, and changes between are in the copy."""
    monkeypatch.setattr("etl.database.division._ROWS", 100)
    monkeypatch.setattr("etl.database.division._FEW", 30)
    _plain(site, divided)
    expected = _contents(site)
    for number in count(1):
        is_finished = _divide(site, number)
        assert _contents(site) == expected
        if is_finished:
            break
        site.ask("update logistics.visits set weight = %s where id %% 9 = %s", [number, number % 9])
        site.ask("delete from logistics.visits where id = %s", [number * 3])
        site.ask("delete from logistics.visit_lines where id = %s and line = 1", [number * 5])
        site.ask(
            "insert into logistics.visit_lines select * from logistics.visit_lines where id = %s", [number * 5 + 2]
        )
        if number == 25:
            site.ask("truncate logistics.visit_lines")
        expected = _contents(site)
    assert number > 20
    assert site.value("select count(*) from pg_class where relkind = 'p' and relname ~ '^visit(s|_lines)$'") == 2
    assert site.value(
        "select to_regclass('etl_staging.visits') is null and to_regnamespace('etl_partitioning') is null"
    )
    assert site.run("precalculate", "visit_months").returncode == 0
    assert site.run("precalculate", "visit_months", "--verify").returncode == 0


def test_what_a_copy_cannot_have_is_named_and_a_copy_can_be_given_up(site: Site) -> None:
    """The table stays as it is, with exit code 2 and each reason; --give-up removes all that a copy has left."""
    _plain(site)
    site.connection.execute(
        b"""alter table logistics.visits add column number serial, add constraint only_id unique (id);
        create table public.notes (visit bigint references logistics.visits (id));
        create materialized view public.months as select date_trunc('month', at) from logistics.visits"""
    )
    done = site.run("dataset", "partition", "visits")
    assert done.returncode == 2
    for reason in ("only_id is unique without at", "notes_visit_fkey", "rule _RETURN on materialized view", "sequence"):
        assert reason in done.stderr
    site.ask("drop materialized view public.months")
    site.ask("drop table public.notes")
    site.ask("alter table logistics.visits drop column number, drop constraint only_id")
    site.ask("update logistics.visits set at = '1823-01-01' where id = 1")
    done = site.run("dataset", "partition", "visits")
    assert (done.returncode, "holds rows that no partition takes" in done.stderr) == (2, True), done.stderr
    site.ask("alter table logistics.visits add column later text")
    site.ask("update logistics.visits set at = '2024-01-01' where id = 1")
    done = site.run("dataset", "partition", "visits")
    assert (done.returncode, "have changed while it was copied" in done.stderr) == (2, True), done.stderr
    assert site.run("retention", "visits", "--keep", "1d").returncode == 2
    before = _contents(site)
    done = site.run("dataset", "partition", "visits", "--give-up")
    assert (done.returncode, done.stdout) == (0, "logistics.visits is left as it was\n"), done.stderr
    assert (_contents(site), _partitions(site)) == (before, [])
    assert site.value("select count(*) from pg_trigger where tgname ~ 'etl_division'") == 0
    assert site.value("select count(*) from pg_class where relname ~ 'etl_division_'") == 0
    assert site.run("dataset", "partition", "visits").returncode == 0
    assert _contents(site) == before
