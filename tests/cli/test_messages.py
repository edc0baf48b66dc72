"""With --log-format json, all of stderr is JSON; in the automatic format errors stay text."""

import json
import pickle
import subprocess
import sys
from typing import Any

import psycopg
import pytest

from etl import cli
from etl.errors import UsageError, sqlstate_of
from tests.support.commands import Ended
from tests.support.site import Site

PARCELS = """
name = "parcels"
mode = "append"
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = { type = "text", required = true }
"""


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has the table of the dataset `parcels`."""
    site.define(PARCELS)
    return site


def _events(done: Ended) -> list[dict[str, Any]]:
    """Return the events on stderr, which has nothing else."""
    return [json.loads(line) for line in done.stderr.splitlines()]


def _failure(done: Ended) -> dict[str, Any]:
    (failure,) = [event for event in _events(done) if event["event"] == "failed"]
    return failure


def test_wrong_usage_is_one_event(site: Site) -> None:
    """An error of the command line or of a setting is one JSON line with the reason and the exit code."""
    for words, reason in [
        (["lod"], "No such command 'lod'"),
        (["--bogus"], "No such option"),
        (["--log-level", "loud", "runs", "list"], "'loud' is not one of"),
        (["load", "parcels"], "Missing argument 'SOURCE...'"),
        (["load", "parcels", "feed.json", "--batch-rows", "0"], "'--batch-rows'"),
        (["load", "nothing", "feed.json"], "no dataset is called 'nothing'"),
        (["--config-dir", "nowhere", "runs", "list"], "the configuration folder nowhere is missing"),
        (["runs", "show", "nothing"], "no run is called nothing"),
    ]:
        for flags in (["--log-format", "json"], ["--log-format=json"], []):
            done = site.run(*flags, *words, env={} if flags else {"ETL_LOG_FORMAT": "json"})
            assert (done.returncode, done.stdout) == (2, ""), words
            failure = _failure(done)
            assert (failure["level"], failure["exit_code"]) == ("error", 2)
            assert reason in failure["reason"]


def test_the_file_can_ask_for_json_too(site: Site) -> None:
    """An error after etl.toml is read is JSON if the file says so; a flag beats it."""
    (site.folder / "config" / "etl.toml").write_text('log_format = "json"\n')
    done = site.run("load", "nothing", "feed.json")
    assert _failure(done)["reason"].startswith("no dataset is called 'nothing'")
    assert "error: no dataset" in site.run("--log-format", "console", "load", "nothing", "feed.json").stderr


def test_the_automatic_format_keeps_errors_as_text(site: Site) -> None:
    """Without a terminal and without a format, errors and hints stay lines that people and scripts know."""
    done = site.run("load", "nothing", "feed.json")
    assert "error: no dataset is called 'nothing'" in done.stderr
    assert site.run("load", "parcels").stderr.startswith("Usage: etl load")


def test_notes_and_warnings_are_events(site: Site) -> None:
    """What is neither a result nor an error is JSON, too."""
    noted = site.run("--log-format", "json", "generate", "vehicles", "--records", "3")
    assert [event["event"] for event in _events(noted)] == ["noted"]
    (site.folder / "config" / "datasets" / "wrong.toml").write_text("name = 1\n")
    warned = _events(site.run("--log-format", "json", "dataset", "list"))
    assert [(event["event"], event["level"]) for event in warned] == [("warned", "warning")]
    assert "wrong.toml" in warned[0]["reason"]


def test_an_unexpected_fault_is_an_event(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exit code 70 has one JSON line, without the text of the error."""

    def fail(*_: object) -> None:
        raise ValueError(f"a {'secret'}")

    monkeypatch.setattr(cli, "read_file_settings", fail)
    done = site.run("--log-format", "json", "runs", "list", may_be_faulty=True)
    assert done.returncode == 70
    assert [event["event"] for event in _events(done)] == ["unexpected_fault"]
    assert "a secret" not in done.stderr


def test_the_end_of_a_source_carries_its_reason(site: Site) -> None:
    """The event `source_ended`, the summary and the metrics have what ended a source, and `run` is in each event."""
    records = json.dumps([{"parcel_id": f"P{number}"} for number in range(50)])
    (site.folder / "feed.json").write_text(records[:-1])
    words = ["load", "parcels", "feed.json", "--json", "--metrics-file", "etl.prom", "--batch-rows", "10"]
    done = site.run("--log-format", "json", "--log-level", "debug", *words)
    assert done.returncode == 3
    error, run = done.summary["error"], done.summary["run"]
    assert error["message"]
    assert error == {
        "sqlstate": None,
        "message": error["message"],
        "hint": error["hint"],
        "next": f"etl runs show {run}",
    }
    events = _events(done)
    (ended,) = [event for event in events if event["event"] == "source_ended"]
    assert (ended["reason"], ended["hint"], ended["run"]) == (error["message"], error["hint"], run)
    assert _failure(done)["run"] == run
    assert {event["run"] for event in events if event["event"] == "batch_loaded"} == {run}
    metrics = (site.folder / "etl.prom").read_text()
    assert 'etl_last_error{command="load",dataset="parcels"' in metrics
    assert error["message"][:20] in metrics
    (site.folder / "feed.json").write_text(records)
    assert site.run(*words).returncode == 0
    assert "etl_last_error{" not in (site.folder / "etl.prom").read_text()
    assert "error" not in site.run(*words).summary


def test_the_reason_has_the_sqlstate_of_the_server(site: Site) -> None:
    """An error that the server caused names its SQLSTATE in the log and in the summary, also from a worker process."""
    site.connection.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$ begin raise insufficient_privilege; end $$;"
        "create trigger refuse before insert on logistics.parcels for each row execute function refuse()"
    )
    (site.folder / "feed.json").write_text(json.dumps([{"parcel_id": f"P{number}"} for number in range(40)]))
    for workers in ("1", "2"):
        done = site.run(
            *("--log-format", "json", "load", "parcels", "feed.json", "--json"),
            *("--workers", workers, "--batch-rows", "10"),
            own_process=True,
        )
        assert done.returncode == 2
        assert done.summary["error"]["sqlstate"] == "42501"
        assert _failure(done)["sqlstate"] == "42501"
        assert _events(done)


def test_a_database_that_is_away_is_an_event(site: Site) -> None:
    """Exit code 4 at the start has one JSON line, and a summary with the same reason."""
    (site.folder / "feed.json").write_text("[]")
    words = ["--log-format", "json", "load", "parcels", "feed.json", "--json", "--retry-attempts", "1"]
    done = site.run(*words, conninfo="postgresql://nobody@127.0.0.1:1/nowhere")
    assert done.returncode == 4
    assert done.summary["error"]["message"] == _failure(done)["reason"]


@pytest.mark.parametrize("encoding", [pytest.param("latin-1:strict", marks=pytest.mark.slow), "ascii:strict"])
def test_an_output_of_another_encoding_ends_no_command(site: Site, encoding: str) -> None:
    """What the encoding of stdout does not have is escaped: the exit code is that of the work, and JSON stays JSON."""
    source = site.folder / "S\u00e3o \u65e5\u672c \U0001f4e6.ndjson"
    source.write_text('{"parcel_id": "\u65e5"}\n{"parcel_id": null}\n')

    def ended(*words: str) -> tuple[int, str]:
        done = subprocess.run(
            [sys.executable, "-m", "etl", *words],
            env=site.environment({"PYTHONIOENCODING": encoding}),
            cwd=site.folder,
            capture_output=True,
            check=False,
        )
        return done.returncode, done.stdout.decode(encoding.partition(":")[0])

    code, output = ended("load", "parcels", source.name, "--max-rejected", "100%", "--json")
    assert (code, json.loads(output.splitlines()[0])["source"]) == (1, source.name)
    for words in (["runs", "list"], ["dataset", "show", "parcels"]):
        code, output = ended(*words)
        assert (code, bool(output)) == (0, True), words


def test_an_error_of_another_process_keeps_its_sqlstate() -> None:
    """The SQLSTATE of a cause is kept when a worker process sends the error; an error without one has none."""
    error = UsageError("wrong", hint="look")
    error.__cause__ = psycopg.errors.InsufficientPrivilege()
    sent = pickle.loads(pickle.dumps(error))  # noqa: S301 - it was made here
    assert (sent.hint, sqlstate_of(sent)) == ("look", "42501")
    assert sqlstate_of(UsageError("wrong")) is None
