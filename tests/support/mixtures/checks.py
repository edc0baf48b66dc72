"""What must be true after a mixture: each check yields a sentence for each problem that it finds."""

import json
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from psycopg import sql

from tests.support.faults import Connection
from tests.support.mixtures.execution import Outcome
from tests.support.mixtures.exports import KEYS, Export
from tests.support.mixtures.oracle import Expected, Row
from tests.support.mixtures.plan import Plan, parts_drawn
from tests.support.site import Site


def check_outcome(outcome: Outcome, plan: Plan) -> Iterator[str]:
    """A command ends with a documented exit code, and never by a fault of its own."""
    allowed = {0, 1, 4, 6}
    if outcome.words[0] in {"listen", "db", "dataset", "report"}:
        allowed = {0, 4}
    if plan.of_kind("revoke") or plan.of_kind("drop the staging tables") or outcome.may_be_refused:
        allowed.add(2)
    if outcome.signal:
        allowed.add(128 + outcome.signal)
    if outcome.words[0] == "load" and any(export.tail and export.name in outcome.words for export in plan.exports):
        allowed.add(3)  # it was appended to while it was read
    if outcome.returncode in {2, 3} and any(reason in outcome.stderr for reason in _reasons(outcome)):
        return
    if outcome.returncode not in allowed:
        yield f"{outcome.act} ended with {outcome.returncode}: {outcome.stderr[-3000:]}"
    # A Ctrl-C before the first line of the program is answered by Python itself.
    is_before_program = outcome.signal == signal.SIGINT and "etl/__main__.py" not in outcome.stderr
    if "Traceback" in outcome.stderr and not is_before_program:
        yield f"{outcome.act} printed a traceback: {outcome.stderr[-3000:]}"
    if "40001" in outcome.stderr:
        yield f"{outcome.act} met another refresh of the same aggregate: {outcome.stderr[-3000:]}"
    if outcome.words[0] == "load" and outcome.returncode != 137:
        for summary in map(json.loads, outcome.stdout.splitlines()):
            counts = summary.get("records", {})
            parts = ("loaded", "rejected", "failed", "skipped", "withheld")
            if counts and counts["read"] != sum(counts[part] for part in parts):
                yield f"{outcome.act} does not add up: {counts}"


def _reasons(outcome: Outcome) -> list[str]:
    """Return parts of the messages of a 2 or a 3 that is right because of what another command has done since."""
    if outcome.words[0] == "load" and "busy atomic sources" not in parts_drawn():
        return ["which is not published"]  # of a load that meets another load of its source; it should be a 6
    if outcome.words[0] == "report":
        return ["was never computed"]
    if outcome.words[0] == "failed":
        return ["does not wait: ", "belongs to an atomic run that is not finished"]
    return []


def check_facts(connection: Connection, expected: Expected) -> Iterator[str]:
    """The tables have the rows that the oracle expects."""
    for table, rows in expected.rows.items():
        found = Counter(_rows(connection, table))
        if table == "stock":
            for row in [row for row in found if row[0] in expected.kept]:
                if row not in expected.kept[row[0]]:
                    yield f"logistics.stock keeps a row of a refused record that it never had: {row}"
                del found[row]
        yield from _differences(f"logistics.{table}", found, rows)


def _rows(connection: Connection, table: str) -> list[Row]:
    parent = table if table in KEYS else f"{table.removesuffix('_items')}s"
    key = sql.Identifier(KEYS[parent])  # type: ignore[index] # the table of records is one of these
    columns = sql.SQL("line_no, sku") if table != parent else sql.SQL("status, pieces, freight_cost::bigint")
    query = sql.SQL("select {}, {} from {}").format(key, columns, sql.Identifier("logistics", table))
    return connection.execute(query).fetchall()


def _differences(what: str, found: Counter[Row], expected: Counter[Row]) -> Iterator[str]:
    missing, additional = expected - found, found - expected
    if missing:
        yield f"{what} lacks {missing.total()} rows of {expected.total()}, such as {sorted(missing, key=str)[:5]}"
    if additional:
        yield f"{what} has {additional.total()} rows too many, such as {sorted(additional, key=str)[:5]}"


def check_ledger(connection: Connection, plan: Plan) -> Iterator[str]:
    """Every balance adds up, and of each source the ledger has every record once."""
    query = 'select run, "offset" from etl.batches where count_records <> count_loaded + count_rejected + count_failed'
    for run, offset in connection.execute(query):
        yield f"the batch {offset} of {run} does not add up"
    query = """
        select r.run, sum(count_rejected + count_failed)::integer, (
            select coalesce(sum(count_records), 0)::integer from etl.failures f
            where f.run = r.run and state <> 'replayed'
        )
        from etl.runs r join etl.batches b using (run) group by r.run
    """
    for run, refused, stored in connection.execute(query):
        if refused != stored:
            yield f"the ledger counts {refused} refused records of {run}, and its failures {stored}"
    for export in plan.exports:
        yield from _check_runs(connection, export)


def _check_runs(connection: Connection, export: Export) -> Iterator[str]:
    query = """
        select run, superseded_by is not null, finished_at is not null and (not is_atomic or published_at is not null),
            coalesce(sum(count_records), 0)::integer, max(first_record + count_records - 1)
        from etl.runs left join etl.batches using (run) where source like '%%' || %s group by run
    """
    runs = connection.execute(query, [export.name]).fetchall()
    if export.dataset != "stock" and len(runs) != 1:
        yield f"{export.name} has {len(runs)} runs"
    for run, is_superseded, is_finished, records, last in runs:
        if not is_superseded and (not is_finished or not records == last == len(export.records)):
            counts = f"{records} records up to {last} of {len(export.records)}"
            yield f"{run} of {export.name}: finished {is_finished}, {counts}"


def check_failed_store(
    connection: Connection, folder: Path, expected: Expected, of_copy: frozenset[str]
) -> Iterator[str]:
    """Every pending failure has its files, every file its failure, and what waits is what can never load.

    A copy of the database may have files of its own failures in the same folder.
    """
    query = "select id, dataset, run, state, count_records from etl.failures"
    known = {failure: (dataset, run, state, count) for failure, dataset, run, state, count in connection.execute(query)}
    waiting = Counter[str]()
    for failure, (dataset, run, state, count) in known.items():
        path = folder / dataset / run / f"{failure}.ndjson"
        if state != "pending":
            continue
        if not path.exists() or not path.with_suffix(".json").exists():
            yield f"the pending failure {failure} has no file"
            continue
        lines = path.read_text().splitlines()
        if len(lines) != count:
            yield f"{failure} has {len(lines)} records, and {count} in the ledger"
        waiting.update(json.loads(line)["status"] for line in lines)
    if waiting != expected.pending:
        missing, additional = expected.pending - waiting, waiting - expected.pending
        yield f"records that should wait and do not: {[*missing][:5]}, that wait and should not: {[*additional][:5]}"
    for path in folder.rglob("*"):
        # A purge, or the next attempt, has moved complete files aside that the ledger does not name.
        if path.is_dir() or path.parent.name == "aside":
            continue
        if path.name.startswith(".") or path.stem not in known.keys() | of_copy:
            yield f"the failed store has a file without a failure: {path.relative_to(folder)}"
        elif not (path.with_suffix(".json").exists() and path.with_suffix(".ndjson").exists()):
            yield f"the failed store has one file of two: {path.relative_to(folder)}"


def check_nothing_left(site: Site) -> Iterator[str]:
    """No session, no lock and no staging table of the tool is left."""
    yield from check_sessions(site)
    for key in site.column(
        "select objid from pg_locks where locktype = 'advisory'"
        " and database = (select oid from pg_database where datname = current_database())"
    ):
        yield f"an advisory lock is left: {key}"
    for name in site.column("select relname from pg_class where relnamespace = 'etl_staging'::regnamespace"):
        yield f"etl_staging.{name} is left"


def check_sessions(site: Site) -> Iterator[str]:
    """No session of the tool is left."""
    for name, state, query in site.ask(
        "select application_name, state, left(query, 200) from pg_stat_activity"
        " where application_name ~ '^etl' and datname = current_database()"
    ):
        yield f"the session {name} is left, {state}: {query}"


def check_copy(connection: Connection, plan: Plan) -> Iterator[str]:
    """In the copy, no row is doubled and no record is lost: it is in a table, pending or discarded."""
    query = """
        select count(*), count(distinct status), (
            select coalesce(sum(count_records), 0)::integer from etl.failures
            where dataset = 'movements' and state in ('pending', 'discarded')
        ) from (select sku as status, movement_id from logistics.movement_items where line_no = 1) as rows
    """
    exports = [export for export in plan.exports if export.dataset == "movements"]
    for export in exports:
        yield from _check_runs(connection, export)
    records = [record for export in exports for record in export.records if record.count_items]
    for rows, distinct, refused in connection.execute(query):
        if rows != distinct:
            yield f"the copy has {rows - distinct} rows twice"
        if not rows <= len(records) <= rows + refused:
            yield f"the copy has {rows} of {len(records)} records, and {refused} are refused"


def summary_of(outcomes: Sequence[Outcome]) -> str:
    """Return how often each command ended with each code."""
    counts = Counter((outcome.words[0], outcome.returncode) for outcome in outcomes)
    return ", ".join(f"{name} {code}: {count}" for (name, code), count in sorted(counts.items()))
