"""Killed loads and servers that stop during a load: no record is lost or loaded twice."""

import json
import random
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import psycopg
import pytest

from etl.embedded import Server
from tests.support.cases import Case, clean_case
from tests.support.commands import PATIENT, Running
from tests.support.databases import Databases, databases_of
from tests.support.faults import Moment
from tests.support.records import write_shipments
from tests.support.servers import durable_server, restart_immediately
from tests.support.site import Site
from tests.support.states import assert_complete, assert_sound, state
from tests.support.waiting import until

RECORDS = 1_600
LONG = 6_000
BATCH_ROWS = ("37", "100", "250", "1000")

# A byte in the third batch of a hundred records; that batch and the next hold no record that the server refuses.
MIDDLE = 150_000


@pytest.fixture(scope="module")
def durable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run a server for these tests alone; it waits for the disk as in production."""
    with durable_server(tmp_path_factory.mktemp("durable")) as server:
        yield server


@pytest.fixture(scope="module")
def databases(durable: Server) -> Databases:
    """Give fresh databases of that server."""
    return databases_of(durable)


def _load(site: Site, case: Case, batch_rows: str = "100", *more: str) -> Running:
    return site.start(*case.command, "--batch-rows", batch_rows, *more)


def _resume(site: Site, case: Case, rng: random.Random) -> list[int]:
    """Run the same command, with varying batch sizes, until all records are loaded; return the exit codes."""
    codes: list[int] = []
    while not codes or codes[-1] != 1:
        assert len(codes) < 60, codes
        codes.append(_load(site, case, rng.choice(BATCH_ROWS)).ended().returncode)
        assert codes[-1] in {1, 4, 6}
        site.wait_for_locks()
    return codes


@pytest.mark.parametrize("name", ["merged", pytest.param("appended", marks=pytest.mark.slow)])
def test_a_killed_load_is_resumed(site: Site, name: str, request: pytest.FixtureRequest) -> None:
    """A load that is killed repeatedly, and resumed with other batch sizes, ends with the tables of a clean load."""
    case: Case = request.getfixturevalue(name)
    rng = random.Random(11)
    for _ in range(3):
        running = _load(site, case, rng.choice(("40", "60")))
        site.wait_for_batches(site.count_batches() + rng.randint(1, 4), running)
        time.sleep(rng.random() * 0.02)  # a random moment within a batch
        assert running.kill()
        assert_sound(site)
    _resume(site, case, rng)
    case.assert_done(site)
    assert site.ask("select run, count(*) from etl.attempts group by run having count(*) >= 4")


@pytest.mark.slow
def test_a_killed_load_of_keyed_records_is_resumed(databases: Databases, site: Site, tmp_path: Path) -> None:
    """Records that are members of an object are loaded exactly once, too, whenever their load is killed."""
    array = write_shipments(tmp_path / "array.json", RECORDS)
    source = tmp_path / "members.json"
    members = {f"K-{number}": record for number, record in enumerate(json.loads(array.read_bytes(), parse_float=str))}
    source.write_text(json.dumps({"shipments": members}), encoding="utf-8")
    command = ["load", "deliveries", str(source), "--records", "shipments.*", "--json", *PATIENT]
    (tmp_path / "clean").mkdir()
    with databases.site(tmp_path / "clean") as other:
        assert other.run(*command).returncode == 1
        clean = state(other)
    rng = random.Random(17)
    for _ in range(6):
        running = site.start(*command, "--batch-rows", rng.choice(("40", "60")))
        site.wait_for_batches(site.count_batches() + rng.randint(1, 3), running)
        time.sleep(rng.random() * 0.02)  # a random moment within a batch
        running.kill()
        assert_sound(site)
    site.wait_for_locks()
    assert site.run(*command, "--batch-rows", "70").returncode == 1
    assert (state(site).lost(clean), state(site).doubled(clean)) == (0, 0)


@pytest.mark.parametrize("moment", [pytest.param("in COPY", marks=pytest.mark.slow), "in COMMIT"])
def test_a_backend_that_ends_in_a_batch(site: Site, appended: Case, moment: Moment) -> None:
    """A load whose backend is terminated during COPY or COMMIT tries the batch again, which was rolled back."""
    with site.gate("logistics.deliveries", moment, MIDDLE) as gate:
        running = _load(site, appended)
        site.terminate(gate.reached())
        gate.open()
        ended = running.ended()
    assert ended.returncode == 1
    assert ended.summary["batches"]["retried"] == 1
    appended.assert_done(site)


@pytest.mark.parametrize(
    ("tail", "exit_code"),
    [(b"\n", 1), pytest.param(b"]", 3, marks=pytest.mark.slow)],
    ids=["the end", "what is not JSON"],
)
def test_a_backend_that_ends_before_the_source(site: Site, appended: Case, tail: bytes, exit_code: int) -> None:
    """A connection that is lost after the last batch is opened again, so that the ledger records the end of the run."""
    words = ["-" if word == str(appended.source) else word for word in appended.command]
    running = site.start(*words, "--batch-rows", "100")
    # Enough white space after the records for the load to read all of them.
    running.send(appended.source.read_bytes() + b" " * (2 << 20))
    site.wait_for_batches(RECORDS // 100, running)
    site.terminate(site.backend("state = 'idle' and application_name ~ '-'"))
    running.send(tail)
    ended = running.ended()
    assert ended.returncode == exit_code, ended.stderr
    counts = ended.summary["records"]
    assert (counts["read"], counts["withheld"], counts["pending"]) == (RECORDS, 0, appended.clean.refused.total())
    assert_sound(site)
    if exit_code == 1:
        appended.assert_done(site)


@pytest.mark.parametrize(
    "comes_back", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["for a moment", "for good"]
)
def test_a_backend_that_ends_after_the_last_commit(site: Site, appended: Case, comes_back: bool) -> None:
    """When the ledger cannot confirm the end of a run, the exit code is 4, and the next load finds out."""
    with site.gate("etl.attempts", "in closing") as gate:
        running = _load(site, appended)
        backend = gate.reached()
        if not comes_back:
            site.allow_connections(False)
        site.terminate(backend)
        gate.open()
        ended = running.ended()
        site.allow_connections(True)
    assert ended.returncode == (1 if comes_back else 4), ended.stderr
    assert ended.summary["status"] == ("loaded_with_rejects" if comes_back else "incomplete")
    assert_complete(site, appended.dataset, appended.source, appended.records)
    again = _load(site, appended).ended()
    assert (again.returncode, again.summary["status"]) == (1, "already_loaded")
    appended.assert_done(site)


@pytest.mark.parametrize("is_committed", [True, False], ids=["committed", "rolled back"])
def test_a_load_that_is_killed_in_a_commit(site: Site, appended: Case, is_committed: bool) -> None:
    """When a load is killed during a commit, the next load finds out whether the batch was committed."""
    with site.gate("logistics.deliveries", "in COMMIT", MIDDLE) as gate:
        running = _load(site, appended)
        backend = gate.reached()
        before = site.count_batches()
        running.signal(signal.SIGSTOP)  # The process never reads a later answer of the server.
        if is_committed:
            gate.open()
            until(lambda: site.count_batches() == before + 1, "the commit")
        else:
            site.terminate(backend)
            assert site.count_batches() == before
            gate.open()
        assert running.kill()
    assert_sound(site)
    _resume(site, appended, random.Random(5))
    appended.assert_done(site)


def _restart_fast(server: Server) -> None:
    assert server.stop()
    server.start()


def _wal_writer(server: Server) -> psutil.Process:
    with psycopg.connect(server.url()) as connection:
        row = connection.execute("select pid from pg_stat_activity where backend_type = 'walwriter'").fetchone()
    assert row
    return psutil.Process(row[0])


def _crash(server: Server) -> None:
    """Kill one process of the server: the server ends all its other processes and recovers from its log."""
    writer = _wal_writer(server)
    writer.kill()
    until(lambda: not writer.is_running(), "the end of the server's processes")
    until(lambda: _answers(server), "the recovery")


def _answers(server: Server) -> bool:
    try:
        psycopg.connect(server.url()).close()
    except psycopg.OperationalError:
        return False
    return True


RESTARTS: dict[str, Callable[[Server], None]] = {
    "fast restart": _restart_fast,
    "immediate restart": restart_immediately,
    "crash": _crash,
}


@pytest.mark.parametrize(
    "name", ["crash", *(pytest.param(each, marks=pytest.mark.slow) for each in RESTARTS if each != "crash")]
)
def test_a_server_that_goes_away_for_a_moment(site: Site, merged: Case, durable: Server, name: str) -> None:
    """A load whose server restarts retries, or it ends with exit code 4 and the next load completes it."""
    running = _load(site, merged)
    site.wait_for_batches(3, running)
    RESTARTS[name](durable)
    ended = running.ended()
    assert ended.returncode in {1, 4}
    assert_sound(site)
    if ended.returncode == 4:
        _resume(site, merged, random.Random(7))
    else:
        assert ended.summary["batches"]["retried"] >= 1
    merged.assert_done(site)


@pytest.mark.slow
def test_a_crash_that_takes_batches(site: Site, merged: Case, appended: Case, durable: Server) -> None:
    """Batches commit before they are on disk: a load that lost batches in a crash is not complete."""
    site.ask("alter table logistics.deliveries drop constraint no_dozen")
    with site.gate("logistics.deliveries", "in COPY", 600_000) as gate:
        _wal_writer(durable).suspend()  # Now only a commit that waits for the log writes it, and batches do not wait.
        running = _load(site, appended)
        gate.reached()
        before = site.count_batches()
        _crash(durable)  # a stopped process can be killed
        assert site.count_batches() < before
    ended = running.ended()
    assert ended.returncode == 4
    assert "crashed and lost batches" in ended.stderr
    assert ended.summary["status"] == "incomplete"
    assert_sound(site)
    assert site.value("select sum(count_records) from etl.batches") < RECORDS
    _load(site, appended).ended()
    assert site.value("select sum(count_records) from etl.batches") == RECORDS


@pytest.mark.slow
def test_a_load_that_comes_back_after_another(site: Site, appended: Case, durable: Server) -> None:
    """A load that lost batches in a crash, and its source to another load, does not change the result of that load."""
    site.ask("alter table logistics.deliveries drop constraint no_dozen")
    with site.gate("logistics.deliveries", "in COPY", 600_000) as gate:
        _wal_writer(durable).suspend()
        running = _load(site, appended)
        gate.reached()
        running.signal(signal.SIGSTOP)
        _crash(durable)
    _load(site, appended, "37").ended()
    before = site.ask("select * from logistics.deliveries")
    running.signal(signal.SIGCONT)
    ended = running.ended()
    assert site.ask("select * from logistics.deliveries") == before
    assert ended.returncode == 6, ended.stderr
    assert ended.summary["status"] == "busy"
    assert_sound(site)


@dataclass(kw_only=True)
class _Tally:
    """The results of the loads that met a fault.

    The numbers of: faults during a load, and between its first and last batch; loads that continued without help;
    commands that resumed the others, and that found the source busy; lost and duplicate records, rows and refused ones;
    loads whose aggregates differ from those of a clean load.
    """

    faults: int = 0
    in_midst: int = 0
    continued: int = 0
    resumes: int = 0
    busy: int = 0
    lost: int = 0
    doubled: int = 0
    stale: int = 0


Table = list[tuple[str, str, _Tally]]


def _kill_loader(_site: Site, running: Running, _server: Server) -> bool:
    return running.kill()


def _terminate_backends(site: Site, running: Running, _server: Server) -> bool:
    site.ask(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name ~ '^etl' and datname = current_database()"
    )
    return running.is_running()


def _bring_down(name: str) -> Callable[[Site, Running, Server], bool]:
    def bring_down(_site: Site, running: Running, server: Server) -> bool:
        RESTARTS[name](server)
        return running.is_running()

    return bring_down


FAULTS: dict[str, Callable[[Site, Running, Server], bool]] = {
    "kill -9 of the loader": _kill_loader,
    "backends terminated": _terminate_backends,
    **{f"server: {name}": _bring_down(name) for name in RESTARTS},
}

MANNERS = {
    "merge": ("shipments",),
    "append": ("deliveries",),
    "append, atomic": ("deliveries", "--atomic"),
    "replace": ("shipments", "--mode", "replace"),
}

# The least number of times that each fault is caused, for loads of each manner.
MATRIX = [
    *(("kill -9 of the loader", manner, 16) for manner in MANNERS),
    *(("backends terminated", manner, 6) for manner in MANNERS),
    *((f"server: {name}", manner, 3) for name in RESTARTS for manner in MANNERS),
]


@pytest.fixture(scope="module")
def table(request: pytest.FixtureRequest) -> Iterator[Table]:
    """Print the results of all loads of the matrix after the last one."""
    table: Table = []
    yield table
    reporter = request.config.pluginmanager.get_plugin("terminalreporter")
    if table and reporter:
        reporter.write_line(f"\n\n{'fault':26}{'manner':15}" + "".join(f"{key:>10}" for key in vars(_Tally())))
        for fault, manner, tally in table:
            reporter.write_line(f"{fault:26}{manner:15}" + "".join(f"{count:10}" for count in vars(tally).values()))


def _wait_for_moment(site: Site, running: Running, moment: float) -> None:
    """Wait for a moment of a load: 0 is its start, 1 the end of its precalculation, its batches are between."""
    if moment < 0.12:
        time.sleep(moment / 0.12 * 0.4)
    elif moment < 0.88:
        site.wait_for_batches(int((moment - 0.12) / 0.76 * LONG / 100) + 1, running)
        time.sleep(moment * 100 % 1 * 0.03)
    else:
        site.wait_for_batches(LONG // 100, running)
        time.sleep((moment - 0.88) / 0.12 * 0.4)


def _round(site: Site, case: Case, moments: Sequence[float], fault: str, server: Server, rng: random.Random) -> _Tally:
    """Cause the fault at each moment, in a load and its resumes; complete the load, and compare it with a clean one."""
    tally = _Tally()
    for moment in moments:
        running = _load(site, case, rng.choice(BATCH_ROWS) if tally.faults else "100")
        _wait_for_moment(site, running, moment)
        tally.in_midst += 0 < site.count_batches() < LONG / 100
        tally.faults += FAULTS[fault](site, running, server)
        assert_sound(site)
        if FAULTS[fault] is not _kill_loader:
            ended = running.ended()
            assert ended.returncode in {1, 4}, ended
            tally.continued += ended.returncode == 1
    codes = _resume(site, case, rng)
    tally.resumes = len(codes)
    tally.busy = codes.count(6)
    found = state(site)
    tally.lost, tally.doubled = found.lost(case.clean), found.doubled(case.clean)
    tally.stale = int(found.aggregates != case.clean.aggregates)
    assert_complete(site, case.dataset, case.source, case.records)
    return tally


@pytest.mark.slow
@pytest.mark.parametrize("cell", MATRIX, ids=lambda cell: f"{cell[0]}, {cell[1]}")
def test_the_kill_matrix(
    databases: Databases, durable: Server, table: Table, tmp_path: Path, cell: tuple[str, str, int]
) -> None:
    """Whatever is killed, restarted or crashed at any moment, every record is loaded or kept exactly once."""
    fault, manner, wanted = cell
    rng = random.Random(f"{fault} {manner}")
    case = clean_case(databases, tmp_path / "clean", MANNERS[manner][0], LONG, *MANNERS[manner][1:])
    spread = [(place + rng.random()) / wanted for place in range(wanted)]
    rng.shuffle(spread)
    total = _Tally()
    table.append((fault, manner, total))
    rounds = 0
    while total.faults < wanted:
        moments = [spread[rounds % wanted], rng.random()][: rng.choice((1, 1, 2))]
        with databases.site(tmp_path / str(rounds)) as site:
            tally = _round(site, case, moments, fault, durable, rng)
        for key, count in vars(tally).items():
            setattr(total, key, getattr(total, key) + count)
        rounds += 1
    assert (total.lost, total.doubled, total.stale) == (0, 0, 0)
