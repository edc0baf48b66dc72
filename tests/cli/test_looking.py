"""Commands that only look make nothing: in a wrong folder they say where they looked."""

import json
from pathlib import Path

import pytest

from etl.cli.options import Common
from etl.embedded import Server
from etl.logs import Logs
from tests.support.site import Site

_LOOKING = [
    "runs list",
    "runs show 20261121T081500Z-3f9a1c",
    "runs trace logistics.vehicles vehicle_id=V1",
    "failed list",
    "failed show 20261121T081500Z-3f9a1c-0-r",
    "report",
    "dataset check vehicles",
    "db check",
    "precalculate --list",
    "precalculate --verify",
    "db url",
    "db status",
    "db psql -- -c commit",
    "listen --check",
]


_ABOUT_LOADS = [
    "runs undo latest",
    "runs purge --older-than 90d",
    "failed replay --all",
    "failed discard 20261121T081500Z-3f9a1c-0-r --reason old",
    "failed purge --older-than 30d",
    "failed adopt",
]
"""Commands about what was loaded before: without a database there is nothing to do."""


def test_looking_makes_no_database(site: Site, tmp_path: Path) -> None:
    """Where no embedded server is, each command that looks ends with 2, names the folder and makes nothing."""
    here = tmp_path / "elsewhere"
    here.mkdir()
    for command in (*_LOOKING, *_ABOUT_LOADS):
        done = site.run(*command.split(), cwd=here, conninfo="embedded:")
        assert (command, done.returncode, done.stdout) == (command, 2, "")
        assert f"looked for the embedded server in {here / '.etl' / 'postgres'}" in done.stderr
        assert "hint: " in done.stderr
        assert list(here.iterdir()) == [], command


def test_a_new_server_is_announced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A command that makes an embedded server says so before it begins, and only then."""
    folder = tmp_path / "pg"
    common = Common(config_dir=tmp_path, given=f"embedded:{folder}", from_file=None, logs=Logs())
    common.announce_creation()
    assert capfd.readouterr().err == f"creating a PostgreSQL in {folder} (once, some seconds)\n"
    (folder / "data").mkdir(parents=True)
    common.announce_creation()
    assert capfd.readouterr().err == ""


def test_looking_migrates_nothing(site: Site, tmp_path: Path) -> None:
    """A command that looks at an embedded server without a schema refuses it, as that of another server."""
    here = tmp_path / "new"
    here.mkdir()
    address = "embedded:pg"
    server = Server(here / "pg")
    server.start(keep=True)
    try:
        done = site.run("runs", "list", cwd=here, conninfo=address)
        assert done.returncode == 2
        assert "etl db migrate" in done.stderr
        assert site.run("precalculate", "--list", cwd=here, conninfo=address).returncode == 2
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("failed list", "nothing waits in "),
        ("failed list --dataset parcels", "nothing waits of parcels in "),
        ("failed list --all", "no file of the failed store in "),
        ("runs list", "no run in "),
        ("runs list --dataset parcels", "no run of this kind in "),
    ],
)
def test_an_empty_result_names_the_database(site: Site, words: str, sentence: str) -> None:
    """Where nothing is found, a sentence names the database instead of an empty table; JSON has no line."""
    done = site.run(*words.split())
    assert done.returncode == 0
    assert done.stdout.startswith(sentence)
    assert len(done.stdout.splitlines()) == 1
    assert site.run(*words.split(), "--json").stdout == ""


def test_what_waits_is_still_a_table(site: Site) -> None:
    """With a pending file the command lists it."""
    (site.folder / "feed.json").write_text(json.dumps([{"vehicle_id": "V1"}, {}]))
    assert site.run("load", "vehicles", "feed.json", "--max-rejected", "100%").returncode == 1
    assert "nothing waits" not in site.run("failed", "list").stdout
