import itertools
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import psycopg
import pytest
from click.shell_completion import ShellComplete

from etl import __version__
from etl.cli import _COMMANDS, cli, run
from etl.database.tables import create_tables
from etl.datasets import read
from tests.support.checkout import MEASURED, ROOT
from tests.support.commands import Ended, RunEtl
from tests.support.faults import Connection

PARCELS = """
name = "parcels"
mode = "append"
[[table]]
name = "logistics.parcels"
[table.columns]
parcel_id = { type = "text", required = true, comment = "Identifies the parcel" }
weight_kg = { path = "size.weight", type = "numeric", min = 0 }
"""

no_database = pytest.mark.parametrize("database_url", ["postgresql://nobody@127.0.0.1:1/nowhere"], ids=["no database"])
"""For what needs no database."""


def _configure(folder: Path, settings: str = "", *, parcels: str = "") -> None:
    (folder / "datasets").mkdir(parents=True, exist_ok=True)
    (folder / "etl.toml").write_text(settings)
    if parcels:
        (folder / "datasets" / "parcels.toml").write_text(parcels)


def _lines(done: Ended) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def _commands() -> Iterator[tuple[list[str], click.Command]]:
    """Yield every command with the words that call it."""
    todo: list[tuple[list[str], click.Command]] = [([], cli)]
    while todo:
        words, command = todo.pop()
        yield words, command
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                todo.append(([*words, name], found))


def test_only_options_that_etl_toml_knows_have_a_twin() -> None:
    """The twin of an option is ETL_ and its key in capitals, for the commands of its key; other options have none."""
    of_failed = {"failed-dir", "retry-for", "retry-attempts", "retry-base-seconds", "retry-cap-seconds"}
    seen = set()
    for words, command in _commands():
        for option in (each for each in command.params if isinstance(each, click.Option)):
            name = option.opts[0].removeprefix("--")
            expected: str | list[str] | None = None
            if name == "database":
                expected = ["ETL_DATABASE_URL", "DATABASE_URL"]
            elif (
                name in {"config-dir", "log-format", "log-level", "metrics-file"}
                or (words == ["load"] and name not in {"limit", "dry-run", "force", "timeout", "follow"})
                or (words[:1] == ["failed"] and name in of_failed)
            ):
                expected = "ETL_" + name.replace("-", "_").upper()
            elif words in (["serve"], ["collect"]) and name not in {"help", "status", "json"}:
                expected = f"ETL_{words[0].upper()}_" + name.replace("-", "_").upper()
            assert (words, name, option.envvar) == (words, name, expected)
            seen.add(name)
    assert {"batch-rows", "json", "config-dir", "force", "port"} | of_failed <= seen


def _parse(words: list[str]) -> None:
    """Parse a command line without doing what it says; what a shell makes of > or | is left out."""
    words = list(itertools.takewhile(lambda word: word not in {">", "|", "&&"}, words))
    command: click.Command = cli
    context = cli.make_context("etl", [*words], resilient_parsing=False)
    while isinstance(command, click.Group):
        name, found, words = command.resolve_command(context, words)
        assert found is not None
        # Raises where an argument or an option is not known or wanting.
        context = found.make_context(name, [*words], parent=context)
        command, words = found, [*context._protected_args, *context.args] if isinstance(found, click.Group) else []


def test_every_command_helps() -> None:
    """Each command tells what it does in a sentence, each option too, and each command that acts gives an example."""
    for words, command in _commands():
        assert command.help, words
        assert command.get_short_help_str(), words
        if not isinstance(command, click.Group):
            examples = (getattr(command, "examples", "") or command.epilog or "").removeprefix("Example: ")
            for line in examples.strip().splitlines():
                parsed = shlex.split(line, comments=True)
                assert f"etl {' '.join(words)}" in " ".join(parsed), words
                _parse(parsed[parsed.index("etl") + 1 :])
            assert examples, words
        for option in (each for each in command.params if isinstance(each, click.Option)):
            assert option.help, (words, option.name)


@no_database
def test_help_and_version_are_printed(run_etl: RunEtl) -> None:
    """--help of the whole and of a command, -h, and --version end with 0 and print on stdout."""
    for words in (["--help"], ["load", "-h"], ["db", "migrate", "--help"]):
        done = run_etl(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith("Usage: etl ")
    done = run_etl("--version")
    assert (done.returncode, done.stdout) == (0, f"etl, version {__version__}\n")


def test_a_flag_beats_the_environment_which_beats_the_file(
    run_etl: RunEtl, connection: Connection, tmp_path: Path
) -> None:
    """What --batch-rows and the log level are is said by flag, else environment, else etl.toml, else the default."""
    _configure(tmp_path / "config", parcels=PARCELS)
    create_tables(connection, read(tmp_path / "config" / "datasets" / "parcels.toml"))
    (tmp_path / "feed.json").write_text(json.dumps([{"parcel_id": f"P{n}"} for n in range(6)]))
    load = ["load", "parcels", "feed.json", "--json", "--force"]

    def batches(*arguments: str, **env: str) -> tuple[int, bool]:
        done = run_etl(*arguments, env=env)
        assert done.returncode == 0
        return _lines(done)[0]["batches"]["loaded"], "batch_loaded" in done.stderr

    assert batches(*load) == (1, False)
    _configure(tmp_path / "config", 'batch_rows = 3\nlog_level = "debug"\nfailed_dir = "refused"\n')
    assert batches(*load) == (2, True)
    assert (tmp_path / "refused").is_dir()
    assert batches(*load, ETL_BATCH_ROWS="2", ETL_LOG_LEVEL="error") == (3, False)
    flags = ["--log-level", "debug", *load, "--batch-rows", "1"]
    assert batches(*flags, ETL_BATCH_ROWS="2", ETL_LOG_LEVEL="error") == (6, True)


@no_database
def test_a_wrong_settings_file_is_2(run_etl: RunEtl, tmp_path: Path) -> None:
    """An unknown key, a value of the wrong type or no TOML at all in etl.toml is exit 2 with the file and the key."""
    for text, sentence in [
        ("batch_row = 5\n", "unknown field `batch_row`"),
        ('batch_rows = "many"\n', "`$.batch_rows`"),
        ('log_level = "loud"\n', "`$.log_level`"),
        ("batch_rows = \n", "Invalid value"),
    ]:
        _configure(tmp_path / "config", text)
        done = run_etl("dataset", "list")
        assert (done.returncode, done.stdout) == (2, "")
        assert "error: config/etl.toml: " in done.stderr
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
    _configure(tmp_path / "config", "batch_rows = 0\n")
    done = run_etl("load", "vehicles", "feed.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'--batch-rows'" in done.stderr


@no_database
def test_definitions_come_from_the_configuration_folder_first(run_etl: RunEtl, tmp_path: Path) -> None:
    """A definition in the folder that is named hides the shipped one of its name; a folder that is not there is 2."""
    own = PARCELS.replace("parcels", "vehicles")
    for folder in ("config", "elsewhere"):
        _configure(tmp_path / folder)
        (tmp_path / folder / "datasets" / "vehicles.toml").write_text(own)
    for arguments, env, found in [
        ([], {}, "config"),
        (["--config-dir", "elsewhere"], {}, "elsewhere"),
        ([], {"ETL_CONFIG_DIR": "elsewhere"}, "elsewhere"),
    ]:
        done = run_etl(*arguments, "dataset", "list", "--json", env=env)
        paths = {line["dataset"]: line["path"] for line in _lines(done)}
        assert paths["vehicles"] == f"{found}/datasets/vehicles.toml"
        assert {"epcis_events", "shipments"} <= paths.keys()
    for arguments, env in [(["--config-dir", "nowhere"], {}), ([], {"ETL_CONFIG_DIR": "nowhere"})]:
        done = run_etl(*arguments, "dataset", "list", env=env)
        assert (done.returncode, done.stdout) == (2, "")
        assert "error: the configuration folder nowhere is missing" in done.stderr


def test_a_dataset_is_shown_checked_and_created(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """The commands of a dataset tell its columns, print statements that run, make its tables and find them right."""
    _configure(tmp_path / "config", parcels=PARCELS)
    shown = run_etl("dataset", "show", "parcels")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "mode append, key none" in shown.stdout
    assert "size.weight" in shown.stdout
    assert "Identifies the parcel" in shown.stdout
    [described] = _lines(run_etl("dataset", "show", "parcels", "--json"))
    assert [column["name"] for column in described["tables"][0]["columns"]] == ["parcel_id", "weight_kg"]
    missing = run_etl("dataset", "check", "parcels")
    assert missing.returncode == 2
    assert "hint: etl dataset create parcels" in missing.stderr
    printed = run_etl("dataset", "ddl", "parcels")
    assert printed.returncode == 0
    connection.execute(printed.stdout)
    for _ in range(2):
        assert run_etl("dataset", "create", "parcels").returncode == 0
    assert run_etl("dataset", "check", "parcels").returncode == 0
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute("insert into logistics.parcels values ('P', -1, 1, 0, 1)")
    connection.execute(
        "alter table logistics.parcels drop column weight_kg; alter table logistics.parcels add by_hand int"
    )
    differing = run_etl("dataset", "check", "parcels")
    assert (differing.returncode, "by_hand" in differing.stdout) == (2, True)


@pytest.mark.parametrize("words", [["dataset", "ddl", "parcels"], ["dataset", "create", "parcels"], ["db", "migrate"]])
def test_no_table_is_made_by_a_default_that_does_not_fit(
    run_etl: RunEtl, connection: Connection, tmp_path: Path, words: list[str]
) -> None:
    """A default that does not fit its column is a fault of the definition, reported before the database is asked."""
    _configure(tmp_path / "config", parcels=PARCELS.replace("min = 0", 'default = "heavy"'))
    done = run_etl(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "column weight_kg: the default does not fit" in done.stderr
    assert connection.execute("select to_regclass('logistics.parcels')").fetchone() == (None,)


def test_runs_and_failures_are_shown(run_etl: RunEtl, connection: Connection, tmp_path: Path) -> None:
    """What was loaded and what waits is listed for people, whole where no terminal cuts it, and as JSON."""
    source = f"{'a-long-folder-name/' * 4}feed.json"
    (tmp_path / source).parent.mkdir(parents=True)
    (tmp_path / source).write_text('[{"vehicle_id": "V1"}, {"vehicle_id": "V2", "capacity_kg": -1}]')
    loaded = run_etl("load", "vehicles", source, "--json")
    run = _lines(loaded)[0]["run"]
    assert run_etl("load", "vehicles", source).returncode == 1
    [listed] = _lines(run_etl("runs", "list", "--json"))
    assert (listed["run"], listed["dataset"], listed["source"], listed["attempts"]) == (run, "vehicles", source, 2)
    assert (listed["records"], listed["loaded"], listed["rejected"], listed["pending"]) == (2, 1, 1, 1)
    [shown] = _lines(run_etl("runs", "show", run, "--json"))
    assert [attempt["exit_code"] for attempt in shown["attempts"]] == [1, 1]
    assert [attempt["count_read"] for attempt in shown["attempts"]] == [2, 2]
    [failure] = shown["failures"]
    for words in (["runs", "list"], ["runs", "show", run], ["failed", "list"], ["failed", "list", "--run", run]):
        done = run_etl(*words)
        assert (done.returncode, done.stderr) == (0, "")
        assert run in done.stdout
        assert "\x1b" not in done.stdout
    assert source in run_etl("runs", "list").stdout
    details = run_etl("failed", "show", failure["id"])
    assert "record 2 at byte 23, key V2" in details.stdout
    assert "23514 logistics.vehicles.capacity_kg: expected 0 or more" in details.stdout
    assert '{"vehicle_id": "V2", "capacity_kg": -1}' in details.stdout
    [shown] = _lines(run_etl("failed", "show", failure["id"], "--json"))
    assert shown["texts"] == ['{"vehicle_id": "V2", "capacity_kg": -1}']
    assert _lines(run_etl("failed", "list", "--json", "--dataset", "shipments")) == []
    elsewhere = run_etl("failed", "show", failure["id"], "--failed-dir", "nowhere")
    assert elsewhere.returncode == 2
    assert "name its folder by --failed-dir" in elsewhere.stderr


def test_aggregates_are_refreshed_by_name(run_etl: RunEtl, connection: Connection) -> None:
    """The command refreshes those that are named, else all, and tells each as a row or as JSON."""
    done = run_etl("precalculate", "vehicle_days", "daily_shipments", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    assert [line["aggregate"] for line in _lines(done)] == ["daily_shipments", "vehicle_days"]
    done = run_etl("precalculate")
    assert done.returncode == 0
    assert all(name in done.stdout for name in ("carrier_performance", "lane_performance", "open_shipments"))
    missing = connection.execute("select aggregate from analytics.freshness where refreshed_at is null").fetchall()
    assert missing == []


@no_database
def test_sample_data_goes_to_a_file_or_to_stdout(run_etl: RunEtl, tmp_path: Path) -> None:
    """The generator writes the same records to a file and to stdout; where it cannot write is exit 2 with the path."""
    words = ["generate", "vehicles", "--records", "20", "--format", "ndjson", "--seed", "7"]
    printed = run_etl(*words)
    assert (printed.returncode, len(_lines(printed))) == (0, 20)
    written = run_etl(*words, "--output", "fleet.ndjson", "--bad", "0%")
    assert (written.returncode, written.stdout) == (0, "")
    assert (tmp_path / "fleet.ndjson").read_text() == printed.stdout
    refused = run_etl(*words, "--output", "nowhere/fleet.ndjson")
    assert refused.returncode == 2
    assert "error: cannot write nowhere/fleet.ndjson: no such file or directory" in refused.stderr


def test_a_reader_that_goes_away_ends_the_command_quietly(tmp_path: Path) -> None:
    """A pipe whose reader has seen enough, as head, ends the command without a word."""
    words = [sys.executable, "-m", "etl", "generate", "vehicles", "--records", "100000", "--format", "ndjson"]
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)} | MEASURED
    with subprocess.Popen(words, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert json.loads(process.stdout.readline())["vehicle_id"]
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(timeout=20) == 0


def test_a_word_that_is_nearly_right_is_recognized(capfd: pytest.CaptureFixture[str]) -> None:
    """A command, a subcommand, an option or a dataset that is nearly right is exit 2 with the one that was meant."""
    for words, meant in (
        ("laod shipments a.json", "'load'"),
        ("db chek", "'check'"),
        ("load shipments a.json --bath-rows 5", "'--batch-rows'"),
        ("dataset show shipmnts", "shipments?"),
    ):
        assert run(words.split()) == 2
        assert f"id you mean {meant}" in capfd.readouterr().err
    assert run(["xyzzy"]) == 2
    assert "No such command 'xyzzy'.\n" in capfd.readouterr().err


def _offered(words: str) -> set[str]:
    """Return what a shell offers for the last of these words."""
    *before, last = words.split(" ")
    return {each.value for each in ShellComplete(cli, {}, "etl", "_ETL_COMPLETE").get_completions(before, last)}


def test_a_shell_completes_names(run_etl: RunEtl, database_url: str, connection: Connection, tmp_path: Path) -> None:
    """Commands, options, datasets, aggregates, runs and failures are offered; nothing where the database is away."""
    (tmp_path / "fleet.json").write_text('[{"vehicle_id": "V1"}, {"odometer_km": 1}]')
    assert run_etl("load", "vehicles", "fleet.json").returncode == 1
    ((run_name, failure),) = connection.execute("select run, id from etl.failures").fetchall()
    database = f"--database {database_url}"
    assert _offered("lo") == {"load"}
    assert _offered("dataset sh") == {"show"}
    assert _offered("load --max-re") == {"--max-rejected", "--max-record-bytes"}
    assert _offered("load sh") == {"shipments"}
    assert _offered("precalculate daily_s") == {"daily_shipments"}
    assert _offered(f"{database} runs show 20") == {run_name}
    assert _offered(f"{database} failed replay {run_name[:8]}") == {failure}
    assert _offered("--database postgresql://nobody@127.0.0.1:1/x runs show 20") == set()


def test_the_list_of_commands_tells_what_each_tells_itself() -> None:
    """What `etl --help` says of a command is the first sentence of the command's own help."""
    assert isinstance(cli, click.Group)
    for name, shown in _COMMANDS.items():
        command = cli.get_command(click.Context(cli), name)
        assert command is not None
        assert (command.help or "").split("\n")[0] == shown


def test_help_imports_no_library_but_click() -> None:
    """`etl --help` starts without the libraries of a load, and a load without those of other commands."""
    for arguments, none_of in (
        ("--help", {"psycopg", "msgspec", "structlog", "ijson", "tenacity", "sqlalchemy"}),
        ("load --help", {"sqlalchemy", "alembic", "multiprocessing.pool"}),
        (
            "--database postgresql://127.0.0.1:1/none load vehicles none.json",
            {"rich", "alembic", "multiprocessing", "concurrent.futures.process", "etl.embedded", "psutil", "tornado"},
        ),
    ):
        program = "import sys; from etl.cli import run; run(sys.argv[1:]); print(*sys.modules)"
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments.split()],
            # The measurement of coverage imports libraries of its own.
            env={name: value for name, value in os.environ.items() if name not in MEASURED} | {"ETL_RETRY_FOR": "0"},
            capture_output=True,
            text=True,
            check=True,
            cwd=ROOT,
        )
        assert none_of.isdisjoint(done.stdout.split("\n")[-2].split())


def test_a_person_can_read_the_projection(run_etl: RunEtl) -> None:
    """`dataset show --projection` tells each column's tokens and checks, or why values are converted one by one."""
    done = run_etl("dataset", "show", "shipments", "--projection")
    assert done.returncode == 0
    assert "logistics.shipments: one row per record" in done.stdout
    assert "weight_kg               <- weight_kg (numeric, above 0)" in done.stdout
    assert "logistics.shipment_items: one row per element of items" in done.stdout
    assert "shipment_id <- the record: shipment_id (text)" in done.stdout


def test_the_last_of_several_names_is_completed() -> None:
    """After a comma a shell offers the names that are not before it."""
    offered = ShellComplete(cli, {}, "etl", "_ETL_COMPLETE").get_completions(["load"], "vehicle_logs,veh")
    assert [each.value for each in offered] == ["vehicle_logs,vehicles"]
