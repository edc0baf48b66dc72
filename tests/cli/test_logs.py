import json
import logging
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import structlog

from etl import cli, logs
from etl.embedded import Server
from etl.settings import LogFormat
from tests.support.commands import Ended, RunEtl
from tests.support.faults import Connection
from tests.support.site import Site
from tests.support.terminal import on_terminal

MARK = "Xq7marker"

PARCELS = """
name = "parcels"
mode = "append"
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = { type = "text", required = true, max_length = 12 }
weight_kg = { type = "numeric", min = 0 }
pieces = "integer"
sent_on = "date"
seen_at = "timestamptz"
fragile = "boolean"
kind = { type = "text", one_of = ["box", "bag"] }
note = "text"
"""


@pytest.fixture
def site(site: Site) -> Site:
    """Give a site that has the table of the dataset `parcels`."""
    site.define(PARCELS)
    return site


def _events(done: Ended) -> list[dict[str, Any]]:
    """Return the events on stderr; the other lines are the error of the command and its hint."""
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("error: ", "hint: "))]
    return [json.loads(line) for line in lines]


def test_a_terminal_gets_warnings_only(site: Site) -> None:
    """On a terminal the summary says what a person needs; events of less weight are shown when they are asked for."""
    (site.folder / "feed.json").write_text('[{"parcel_id": "P1"}]')
    words = ["load", "parcels", "feed.json", "--force", "--no-precalculate"]

    def shown(*options: str, **env: str) -> str:
        code, output = on_terminal([*options, *words], env=site.environment(env), cwd=site.folder)
        assert code == 0
        assert "loaded parcels from feed.json" in output
        return output

    assert "source_ended" not in shown()
    assert "unknown_variable" in shown(ETL_NOTHING="1")
    assert "source_ended" in shown("--log-level", "info")
    assert "source_ended" in shown(ETL_LOG_LEVEL="info")
    assert "source_ended" in shown("--log-format", "json")


@pytest.mark.parametrize(
    ("terminal", "log_format", "command", "level"),
    [
        ("xterm", "auto", "load", "warning"),
        ("dumb", "auto", "load", "info"),  # Lines of the log show the progress there.
        ("xterm", "json", "load", "info"),
        ("xterm", "auto", "listen", "info"),
    ],
)
def test_the_log_is_shown_where_nothing_else_is(
    monkeypatch: pytest.MonkeyPatch, terminal: str, log_format: LogFormat, command: str, level: str
) -> None:
    """The default level is info for programs, and where the log is the only thing that a person sees."""
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert cli.default_log_level(log_format, command) == level


def test_events_are_json_without_a_terminal(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """Without a terminal, each event is a line of stderr with one JSON object that has event, time and level."""
    (tmp_path / "feed.json").write_text(json.dumps([{"parcel_id": f"P{n}"} for n in range(4)]))
    done = run_etl("--log-level", "debug", "load", "parcels", "feed.json", "--json", "--batch-rows", "2")
    assert done.returncode == 0
    events = _events(done)
    assert [event["event"] for event in events].count("batch_loaded") == 2
    for event in events:
        assert event["level"] in {"debug", "info", "warning", "error"}
        assert datetime.fromisoformat(event["timestamp"]).utcoffset() is not None
    for line in done.stdout.splitlines():
        assert json.loads(line)["kind"] in {"source", "total"}


def test_events_can_be_for_people(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """--log-format console writes lines for people, without colour when there is no terminal."""
    (tmp_path / "feed.json").write_text('[{"parcel_id": "P1"}]')
    load = ["load", "parcels", "feed.json"]
    done = run_etl("--log-format", "console", "--log-level", "debug", *load)
    [line] = [line for line in done.stderr.splitlines() if "batch_loaded" in line]
    assert "records=1" in line
    assert "\x1b" not in done.stderr + done.stdout
    with pytest.raises(json.JSONDecodeError):
        json.loads(line)
    quiet = run_etl("--log-level", "error", *load, "--force")
    assert (quiet.returncode, quiet.stderr) == (0, "")


def test_loggers_of_libraries_are_routed(capsys: pytest.CaptureFixture[str], logging_restored: None) -> None:
    """A message that a library logs by the standard library is an event like ours, from the log level on."""
    logs.set_up(logs.Logs(format="json"))
    logging.getLogger("some.library").warning("something %s", "happened")
    logging.getLogger("some.library").debug("never mind")
    structlog.get_logger("etl").info("thing_done", rows=3)
    said, ours = (json.loads(line) for line in capsys.readouterr().err.splitlines())
    assert (said["event"], said["level"]) == ("something happened", "warning")
    assert (ours["event"], ours["level"], ours["rows"]) == ("thing_done", "info", 3)
    assert set(said) == {"event", "level", "timestamp"}


def _spoiled() -> list[str]:
    """Return records that are refused for different reasons, each with the marker in it, as JSON texts."""
    bad: list[dict[str, Any]] = [
        {"parcel_id": f"{MARK} and too long"},
        {"parcel_id": {MARK: MARK}},
        {"parcel_id": None, "note": MARK},
        {"parcel_id": "W", "weight_kg": MARK},
        {"parcel_id": "I", "pieces": f"12{MARK}"},
        {"parcel_id": "D", "sent_on": f"2026-13-01{MARK}"},
        {"parcel_id": "T", "seen_at": f"now {MARK}"},
        {"parcel_id": "B", "fragile": MARK},
        {"parcel_id": "K", "kind": MARK},
        {"parcel_id": "N", "note": f"{MARK}\u0000"},
        {"parcel_id": "O", "note": [MARK]},
        {"parcel_id": MARK, "weight_kg": -1, "unknown": MARK},
    ]
    return [*map(json.dumps, bad), f'"{MARK}"', f'{{"note": "{MARK}\\ud83d"}}', f'{{"{MARK}": "{MARK}" oops}}']


def test_no_content_of_records_is_printed(
    run_etl: RunEtl, connection: Connection, server: Server, tmp_path: Path
) -> None:
    """No content of a record reaches output, logs, ledger or the log of the server; only the failed store has it."""
    (tmp_path / "misfits.ndjson").write_text("\n".join(_spoiled()) + "\n")
    (tmp_path / "refused.json").write_text(
        json.dumps([{"parcel_id": MARK}, {"parcel_id": MARK}, {"parcel_id": "E", "note": MARK}])
    )
    (tmp_path / "failed.json").write_text(json.dumps([{"parcel_id": "F", "note": MARK}]))
    (tmp_path / "broken.json").write_text(f'[{{"parcel_id": "{MARK}1", "note": "{MARK}"}}, {{"{MARK}": "{MARK}" {MARK}')
    (tmp_path / "other.html").write_text(f"<p>{MARK}</p>")
    (tmp_path / "document.json").write_text(json.dumps({"list": [MARK], "note": MARK}))
    connection.execute(
        """
        create unique index on logistics.parcels (parcel_id);
        create function meddle() returns trigger language plpgsql as $$
        begin
            if new.parcel_id = 'E' then raise 'this % is wrong', new.note; end if;
            if new.parcel_id = 'F' then raise 'never %', new.note using errcode = '40001', detail = new.note; end if;
            return new;
        end $$;
        create trigger meddle before insert on logistics.parcels for each row execute function meddle()
        """
    )
    retries = ["--retry-attempts", "2", "--retry-base-seconds", "0.01"]
    load = ["load", "parcels", "--max-rejected", "100%", *retries]
    commands: list[tuple[list[str], int]] = [
        ([*load, "misfits.ndjson", "refused.json", "failed.json", "--json"], 1),
        ([*load, "misfits.ndjson", "--dry-run", "--json"], 1),
        ([*load, "broken.json", "other.html"], 3),
        ([*load, "document.json", "--records", "rows.item"], 3),
        (["failed", "list"], 0),
        (["failed", "list", "--json"], 0),
        (["runs", "list", "--json"], 0),
        (["failed", "replay", "--all", *retries], 1),
        (["--log-format", "console", *load, "misfits.ndjson", "refused.json", "broken.json", "--force"], 3),
    ]
    for command, code in commands:
        done = run_etl("--log-level", "debug", *command)
        assert (command, done.returncode) == (command, code), done.stderr
        assert MARK not in done.stdout + done.stderr
    tables = connection.execute("select tablename from pg_tables where schemaname = 'etl'").fetchall()
    assert len(tables) >= 5
    for (table,) in tables:
        rows = connection.execute(f"select t::text from etl.{table} t").fetchall()  # noqa: S608
        assert MARK not in str(rows)
    kinds = connection.execute("select distinct kind from etl.failures order by 1").fetchall()
    assert kinds == [("failed",), ("rejected",)]
    assert MARK not in (server.folder / "server.log").read_text()
    kept = "".join(path.read_text(errors="replace") for path in (tmp_path / "failed").rglob("*.ndjson"))
    assert kept.count(MARK) >= len(_spoiled())
    [failure] = connection.execute("select id from etl.failures where kind = 'failed' and parent is null").fetchall()
    assert MARK in run_etl("failed", "show", *failure).stdout


def test_a_fault_of_the_tool_quotes_no_record(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], logging_restored: None
) -> None:
    """An unexpected error is exit code 70 with its type and place, and with its message only if that is about code."""

    def raises(error: Exception) -> Callable[..., None]:
        def fail(*_arguments: object, **_options: object) -> None:
            raise error

        return fail

    for error, is_shown in [(ValueError(f"no number: {MARK}"), False), (TypeError("missing 1 argument"), True)]:
        monkeypatch.setattr("etl.cli.generate.generate", raises(error))
        assert (
            cli.run(["--log-format", "json", "generate", "vehicles", "--records", "1", "--output", "/dev/null"]) == 70
        )
        [event] = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
        assert (event["event"], event["level"]) == ("unexpected_fault", "error")
        assert event["fault"] == type(error).__name__
        assert any("in fail" in frame for frame in event["frames"])
        assert event.get("message") == ("missing 1 argument" if is_shown else None)
        assert MARK not in json.dumps(event)
