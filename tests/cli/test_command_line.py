"""What may be written where on the command line, and what help and errors say of it."""

import pytest

from etl.cli import next_commands
from etl.cli.load import command as load_command
from etl.version import __version__
from tests.support.site import Site


@pytest.mark.parametrize("words", ["", "runs", "failed", "dataset", "db", "--log-level debug", "--log-level debug db"])
def test_a_group_without_a_command_helps(parcels: Site, words: str) -> None:
    """`etl` and each group print their help on stdout and end with 0, with options before them, too."""
    done = parcels.run(*words.split())
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: etl ")
    assert "\nCommands:\n" in done.stdout


def test_short_options_name_the_version_and_the_log_level(parcels: Site) -> None:
    """-V is the version; -v logs everything and -q only errors, before the command and after it; not both."""
    assert parcels.run("-V").stdout == f"etl, version {__version__}\n"
    for words in (["-v", "load", "parcels", "feed.json"], ["load", "parcels", "feed.json", "-v"]):
        assert '"level": "debug"' in parcels.run(*words, "--force").stderr
    assert parcels.run("load", "-q", "parcels", "feed.json", "--force").stderr == ""
    assert parcels.run("-v", "runs", "list", "-q").returncode == 2
    assert parcels.run("-v", "--log-level", "info", "runs", "list").returncode == 2


def test_the_help_of_a_load_begins_with_examples(parcels: Site) -> None:
    """`load --help` has several examples before the options, and each option is in a section that has a title."""
    text = parcels.run("load", "--help").stdout
    assert text.count("\n  etl load ") > 2
    places = [text.index(f"\n{title}:\n") for title in ("Examples", *load_command.sections, "Other")]
    assert places == sorted(places)
    other = text[places[-1] :]
    assert [line.split(maxsplit=1)[0] for line in other.splitlines() if line.startswith("  -")] == ["-h,"]
    assert "--workers" in text


def test_options_of_all_commands_are_accepted_after_the_command(parcels: Site) -> None:
    """--database and the other options of all commands may be after the command; values and `--` stay in place."""
    elsewhere = {"ETL_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/none"}
    for words in (
        ["load", "parcels", "feed.json", "--database", parcels.conninfo, "--log-level=error"],
        ["runs", "--database", parcels.conninfo, "list"],
        ["failed", "list", f"--database={parcels.conninfo}", "--config-dir", "config"],
    ):
        done = parcels.run(*words, env=elsewhere)
        assert done.returncode == 0, done.stderr
    done = parcels.run("runs", "list", "--log-format", "json", "--database", "wrong address", env=elsewhere)
    assert (done.returncode, done.events("failed")[0]["reason"]) == (2, "the database address cannot be read")
    done = parcels.run("failed", "discard", "none", "--reason", "--database")
    assert "nothing in the failed store is called none" in done.error
    done = parcels.run("runs", "list", "--database")
    assert (done.returncode, "etl --database VALUE runs list" in done.stderr) == (2, True)
    done = parcels.run("db", "psql", "--", "-At", "-v", "n=7", "-c", "select 1", "--log-level")
    assert "--log-level" in done.stderr
    assert "option requires" in done.stderr or "unrecognized" in done.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["load", "--worker", "2", "parcels", "feed.json"], "No such option '--worker'. Did you mean '--workers'?"),
        (["load", "feed.json", "parcels"], "no dataset is called 'feed.json': swapped arguments?"),
        (["load", "missing feed.json", "parcels"], "hint: etl load parcels 'missing feed.json'"),
        (["load", "feed.json", "parcel"], "hint: expected etl load DATASET feed.json parcel"),
        (["dataset", "check", "feed.json", "parcels"], "hint: etl dataset check parcels feed.json"),
        (["load", "parcel", "feed.json"], "hint: did you mean parcels?"),
    ],
)
def test_an_error_names_what_is_meant(parcels: Site, words: list[str], expected: str) -> None:
    """A wrong option or name is exit code 2 with the closest one; swapped arguments are recognised."""
    done = parcels.run(*words)
    assert (done.returncode, expected in done.stderr) == (2, True), done.stderr


def test_spaces_around_commas_do_not_count(parcels: Site) -> None:
    """Names and paths that are separated by commas may have spaces around them."""
    (parcels.folder / "day.json").write_text('{"vehicles": [{"vehicle_id": "V1"}], "parcels": [{"parcel_id": "P"}]}')
    done = parcels.run("load", "parcels, vehicles", "day.json", "--records", " parcels.item , vehicles.item", "--json")
    assert [summary["records"]["loaded"] for summary in done.summaries] == [1, 1]
    assert parcels.load(" parcels ", "feed.json")["dataset"] == "parcels"


def test_a_pattern_without_a_match_is_reported(parcels: Site) -> None:
    """A pattern that no file matches is exit code 3 with a sentence that says so."""
    done = parcels.run("load", "parcels", "no such/*.json")
    assert (done.returncode, done.errors) == (3, ["no file matches the pattern no such/*.json"])


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("postgresql://me:s3cret@db/logistics", "postgresql://me@db/logistics"),
        ("postgres://me:s3%40cret@db:5432/l?sslmode=require", "postgres://me@db:5432/l?sslmode=require"),
        ("postgresql://me@db/l?password=s3cret&sslmode=require", "postgresql://me@db/l?sslmode=require"),
        ("postgresql://me@db/l?sslmode=require&password=s3cret", "postgresql://me@db/l?sslmode=require"),
        ("postgresql://:s3cret@db/l", "postgresql://@db/l"),
        ("host=db password='s3 cret' dbname=l", "dbname=l host=db"),
        ("host=db dbname=l sslpassword=s3cret", "dbname=l host=db"),
        ("postgresql://db/l", "postgresql://db/l"),
        ("host=db dbname=l", "host=db dbname=l"),
        ("embedded:a folder", "embedded:a folder"),
        ("not an address s3cret", ""),
    ],
)
def test_an_address_is_printed_without_its_password(address: str, public: str) -> None:
    """Whatever way an address has its password, it is left out; an address without one is as it was written."""
    assert next_commands.without_password(address) == public
