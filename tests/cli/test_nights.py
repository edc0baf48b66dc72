"""A nightly load under cron: whatever its end, the mail and the log say what is wrong and what comes next."""

import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from etl.errors import ExitCode
from etl.ingestion.ledger import locks
from tests.support.checkout import MEASURED
from tests.support.faults import Connection
from tests.support.site import Site

PROGRAM = Path(sys.executable).parent / "etl"
RECORDS = {
    "good": '[{"vehicle_id": "V1"}]',
    "rejects": '[{"vehicle_id": "V2"}, {"vehicle_id": null}]',
    "cut": '[{"vehicle_id": "V3"}',
    "held": '[{"vehicle_id": "V4"}]',
    "lost": '[{"vehicle_id": "V5"}]',
}

Night = tuple[str, Callable[[], AbstractContextManager[None]], str, str]
"""What is loaded with which options, what happens meanwhile, and what the mail says: the reason and the next step."""


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site with the sources of the nights."""
    for name, text in RECORDS.items():
        (site.folder / f"{name}.json").write_text(text)
    return site


@contextmanager
def _nothing() -> Iterator[None]:
    yield


def _nights(site: Site, connection: Connection) -> dict[int, Night]:
    @contextmanager
    def held() -> Iterator[None]:
        run = site.run("load", "vehicles", "held.json", "--json", "--no-precalculate").summary["run"]
        locks.hold_run(connection, run)
        yield

    @contextmanager
    def miscounting() -> Iterator[None]:
        connection.execute(
            "create function miscount() returns trigger language plpgsql as"
            " 'begin new.count_loaded := new.count_loaded + 1; return new; end';"
            " create trigger miscount before update on etl.separate_batches for each row execute function miscount()"
        )
        yield

    away = "--database postgresql://nobody@127.0.0.1:1/nowhere --retry-for 0"
    again = "run the same command"
    return {
        0: ("vehicles good.json", _nothing, "1 loaded", ""),
        1: ("vehicles rejects.json", _nothing, "1 rejected", "etl failed show --run"),
        2: ("vehicle good.json", _nothing, "no dataset is called", "vehicles"),
        3: ("vehicles cut.json", _nothing, "cut.json", "get the file again"),
        4: (f"vehicles good.json {away}", _nothing, "127.0.0.1", "start the server"),
        5: ("vehicles rejects.json --max-rejected 0", _nothing, "--max-rejected allows 0", "--max-rejected"),
        6: ("vehicles held.json", held, "this source is held by", again),
        70: ("vehicles lost.json", miscounting, "does not add up", "report it"),
    }


def _cron(site: Site, words: str) -> subprocess.Popen[str]:
    """Run a line of a crontab as cron does: a shell with four variables, whose output becomes the mail."""
    line = f"cd {shlex.quote(str(site.folder))} && {PROGRAM} {words}"
    environment = {"HOME": str(site.folder), "LOGNAME": "etl", "SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    environment |= {"ETL_DATABASE_URL": site.conninfo, **MEASURED}
    return subprocess.Popen(
        ["/bin/sh", "-c", line],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def _assert_log(log: str, code: int, reason: str) -> None:
    """Each line of the log is one event, and the end of the source, or of the command, has the reason."""
    events = [json.loads(line) for line in log.splitlines()]
    ends = [event for event in events if event["event"] in {"source_ended", "failed"}]
    if code not in {0, 1}:
        assert any(reason in json.dumps(event, ensure_ascii=False) for event in ends), log
    assert {event.get("exit_code", code) for event in ends} <= {code}, log


@pytest.mark.slow
@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 5, 6, 70])
def test_a_night_says_what_is_wrong_and_what_comes_next(site: Site, connection: Connection, code: int) -> None:
    """The mail ends with the reason and the next step; the log of the same night is JSON and has the reason, too."""
    words, meanwhile, reason, following = _nights(site, connection)[code]
    with meanwhile():
        for log_format in ("auto", "json"):
            forced = "--force" if code in {1, 5, 70} else ""
            night = _cron(site, f"--log-format {log_format} load {words} {forced} --no-precalculate")
            output, log = night.communicate(timeout=60)
            assert night.returncode == code, output + log
            assert "Traceback" not in output + log
            if log_format == "auto":
                sys.stdout.write(f"--- exit code {code}, the mail\n{log}{output}\n")
                assert reason in output + log
                assert following in output + log
            else:
                sys.stdout.write(f"--- exit code {code}, the log\n{log}\n")
                _assert_log(log, code, reason)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("log_format", ["auto", "json"])
def test_a_night_that_a_signal_ends(site: Site, number: signal.Signals, log_format: str) -> None:
    """The mail and the log name the signal, and that the same command continues."""
    with site.gate("logistics.vehicles", "in COPY", when="new.vehicle_id = 'V1'") as gate:
        night = _cron(site, f"--log-format {log_format} load vehicles good.json cut.json --no-precalculate")
        gate.reached()
        [child] = [int(word) for word in Path(f"/proc/{night.pid}/task/{night.pid}/children").read_text().split()]
        os.kill(child, number)
        gate.open()
        output, log = night.communicate(timeout=60)
    code = 128 + number
    assert ExitCode(code)
    assert night.returncode == code, output + log
    sys.stdout.write(f"--- exit code {code}, {log_format}\n{log}{output}\n")
    assert "run the same command to continue" in log + output
    if log_format == "json":
        _assert_log(log, code, f"signal {int(number)}")
