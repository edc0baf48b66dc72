"""Environment variables and keys of etl.toml: each is for the command of its table only."""

import json
from pathlib import Path
from typing import Any

import pytest

from etl.errors import DefinitionError
from etl.settings import read_file_settings
from tests.support.commands import Ended
from tests.support.site import Site


def _unknown(done: Ended) -> list[str]:
    """Return the variables of which a command warned."""
    events: list[dict[str, Any]] = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return [event["variable"] for event in events if event["event"] == "unknown_variable"]


def test_a_variable_of_an_option_for_one_time_changes_no_command(parcels: Site) -> None:
    """A load is whole whatever variables are set that another command once had; a warning names each of them."""
    once = {"ETL_LIMIT": "5", "ETL_DRY_RUN": "1", "ETL_FORCE": "1", "ETL_ALL": "1", "ETL_BATCH_ROW": "secret"}
    done = parcels.run("load", "parcels", "feed.json", "--json", env=once)
    assert (done.summary["status"], done.summary["records"]["loaded"]) == ("loaded", 6)
    assert _unknown(done) == sorted(once)
    assert "secret" not in done.stderr
    assert parcels.run("load", "parcels", "feed.json", "--json", env=once).summary["status"] == "already_loaded"


def test_a_known_variable_changes_the_command_of_its_table_only(parcels: Site) -> None:
    """ETL_FORMAT is for load, which names it when it is wrong; report, replay and generate do not read it."""
    env = {"ETL_FORMAT": "csv", "ETL_JSON": "1", "ETL_RECORDS": "x", "ETL_TEST_POSTGRES": "1", "_ETL_COMPLETE": ""}
    refused = parcels.run("load", "parcels", "feed.json", env=env)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "ETL_FORMAT" in refused.stderr
    for words in (["report"], ["runs", "list"], ["generate", "vehicles", "--records", "1"], ["failed", "list"]):
        done = parcels.run(*words, env=env)
        assert done.returncode == 0, words
        assert _unknown(done) == []
        assert not done.stdout.startswith("{") or words[0] == "generate"


def test_variables_that_could_make_a_replay_larger_do_not(parcels: Site) -> None:
    """A replay without a name of what to replay stays wrong usage, whatever variables say."""
    done = parcels.run("failed", "replay", env={"ETL_ALL": "1", "ETL_DATASET": "parcels", "ETL_RUN": "x"})
    assert done.returncode == 2
    assert "nothing is named to replay" in done.stderr
    assert _unknown(done) == ["ETL_ALL", "ETL_DATASET", "ETL_RUN"]


def test_help_and_completion_warn_of_nothing(parcels: Site) -> None:
    """Help and shell completion print nothing but what was asked for."""
    assert parcels.run("--help", env={"ETL_LIMIT": "5"}).stderr == ""
    env = {"ETL_LIMIT": "5", "_ETL_COMPLETE": "bash_complete", "COMP_WORDS": "etl load par", "COMP_CWORD": "2"}
    done = parcels.run(env=env, own_process=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "parcels" in done.stdout


@pytest.mark.parametrize("settings", ["batch_rows = 3\n", "[load]\nbatch_rows = 3\n"])
def test_the_keys_of_load_are_read_with_and_without_their_table(parcels: Site, settings: str) -> None:
    """A key in [load] and a key outside a table both apply to a load."""
    (parcels.folder / "config" / "etl.toml").write_text(settings)
    assert parcels.run("load", "parcels", "feed.json", "--json").summary["batches"]["loaded"] == 2


def test_each_command_gets_the_keys_that_are_for_it(tmp_path: Path) -> None:
    """Of [load] the failed store and the retries are for `failed`, too; keys outside a table are for all as before."""
    path = tmp_path / "etl.toml"
    path.write_text('log_level = "error"\n[load]\njson = true\nfailed_dir = "f"\nretry_attempts = 2\n')
    settings = read_file_settings(tmp_path)
    assert settings.as_defaults() == {
        "log_level": "error",
        "as_json": True,
        "failed_dir": "f",
        "retry_attempts": 2,
    }
    assert settings.as_defaults("failed") == {"log_level": "error", "failed_dir": "f", "retry_attempts": 2}
    assert settings.as_defaults("listen") == {"log_level": "error"}
    path.write_text('json = true\nfailed_dir = "f"\n')
    for command in ("load", "failed", "precalculate", "listen"):
        assert read_file_settings(tmp_path).as_defaults(command) == {"as_json": True, "failed_dir": "f"}


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[load]\ndatabase = "x"\n', "unknown field `database`"),
        ('[load]\nlog_level = "error"\n', "unknown field `log_level`"),
        ("[load]\nlimit = 5\n", "unknown field `limit`"),
        ("[failed]\nretry_attempts = 5\n", "unknown field `failed`"),
        ('[load]\nbatch_rows = "many"\n', "load.batch_rows"),
        ("batch_rows = 1\n[load]\nbatch_rows = 2\n", "batch_rows is set twice"),
    ],
)
def test_a_wrong_table_of_etl_toml_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    """A key that is not of the table, an unknown table, a wrong value and a key in both places are errors."""
    (tmp_path / "etl.toml").write_text(text)
    with pytest.raises(DefinitionError, match=sentence):
        read_file_settings(tmp_path)
