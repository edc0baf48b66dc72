"""With standard streams that are closed, full or without a reader, a load is complete and its exit code is right."""

import errno
import json
import subprocess
import sys

import pytest

from tests.support.site import Site


def _shell(script: str, site: Site) -> subprocess.CompletedProcess[str]:
    words = ["/bin/bash", "-c", f'etl() {{ {sys.executable} -m etl "$@"; }}; {script}']
    return subprocess.run(
        words, cwd=site.folder, env=site.environment(), capture_output=True, text=True, timeout=60, check=False
    )


def test_a_load_outlives_its_reader(site: Site) -> None:
    """A load without a reader of its output, or with a full disk, loads all sources and ends with its own exit code."""
    (site.folder / "a.json").write_text(json.dumps([{"vehicle_id": "V1"}]))
    (site.folder / "b.json").write_text(json.dumps([{"vehicle_id": "V2"}, {"vehicle_id": None}]))
    load = "etl load vehicles a.json b.json --json --no-precalculate --max-rejected 1"
    # The reader ends before the first line.
    done = _shell(f"{load} | exec sleep 0; echo ${{PIPESTATUS[0]}}; {load} > /dev/full; echo $?", site)
    assert done.stdout.split() == ["1", "1"]
    assert done.stderr.count('"output_lost"') == 2
    assert "Traceback" not in done.stderr
    found = site.ask("select vehicle_id, count(*) from logistics.vehicles group by 1 order by 1")
    assert found == [("V1", 1), ("V2", 1)]


def test_streams_that_are_closed(site: Site) -> None:
    """A command without standard output prints nothing; one without standard input has nothing to read: exit code 3."""
    done = _shell("etl load vehicles - --no-precalculate <&- >&-; echo $?; etl runs list >&-; echo $?", site)
    assert done.stdout.split() == ["3", "0"]
    assert "expected JSON, the source is empty" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_list_that_is_cut_short_ends_quietly(site: Site) -> None:
    """`etl ... | head -1` ends early with exit code 0 and without a message."""
    done = _shell(
        "etl generate vehicles --records 1000000000 --format ndjson | head -c 1 >&2; echo ${PIPESTATUS[0]}",
        site,
    )
    assert (done.stdout, done.stderr) == ("0\n", "{")


LOST = {
    "full output": "> /dev/full",
    "full log": "2> /dev/full",
    "both full": "> /dev/full 2>&1",
    "closed output": ">&-",
    "closed log": "2>&-",
    "both closed": ">&- 2>&-",
    "output without reader": "| exec sleep 0",
    "log without reader": "2>&1 > /dev/null | exec sleep 0",
    "both without reader": "2>&1 | exec sleep 0",
}
"""Streams that cannot be written, as a shell spells them."""

OF_SOURCES = {
    "load vehicles missing.json": 3,
    "load vehicles a.json --no-precalculate": 1,
    "load vehicles a.json --no-precalculate --json --force --workers 2": 1,
    "load vehicles a.json --no-precalculate --force --max-rejected 0": 5,
    "load vehicles cut.json --no-precalculate": 3,
    "load nosuch a.json": 2,
    "load vehicles a.json --retry-attempts x": 2,
    "--database postgresql://nobody@127.0.0.1:1/x load vehicles a.json": 4,
    "--database postgresql://nobody@127.0.0.1:1/x runs list": 4,
    "nosuch": 2,
}
"""Commands that have nothing to print but a summary or an error, and their exit codes."""

OF_RESULTS = {
    "--help": 0,
    "--version": 0,
    "load --help": 0,
    "runs list": 0,
    "dataset list --json": 0,
    "failed list": 0,
    "report": 0,
    "report --format csv": 0,
    "generate vehicles --records 5000": 0,
    "precalculate": 0,
    "dataset list": 0,
    "dataset ddl vehicles": 0,
    "dataset infer a.json": 0,
    "dataset check vehicles a.json": 1,
    "db migrate": 0,
    "db check": 0,
    "db url": 0,
}
"""Commands that print a result, and their exit codes."""


def _codes(site: Site, command: str, *streams: str) -> list[int]:
    script = "\n".join(f"etl {command} {stream}; echo ${{PIPESTATUS[0]}} >&9" for stream in streams)
    done = _shell(f"exec 9>&1\n{script}", site)
    assert "Traceback" not in done.stdout + done.stderr
    assert "unexpected_fault" not in done.stdout + done.stderr
    return [int(line) for line in done.stdout.splitlines() if line.isdigit()]


def _make_sources(site: Site) -> None:
    (site.folder / "a.json").write_text('[{"vehicle_id": "V1"}, {"vehicle_id": null}]')
    (site.folder / "cut.json").write_text('[{"vehicle_id": "V1"}')


def test_a_full_log_changes_no_exit_code(site: Site) -> None:
    """An error whose message cannot be written has its exit code all the same; a result that cannot be written is 4."""
    _make_sources(site)
    for command in ("load vehicles missing.json", "load nosuch a.json", "nosuch"):
        assert _codes(site, command, LOST["both full"]) == [(OF_SOURCES | OF_RESULTS)[command]]
    assert _codes(site, "load vehicles missing.json", LOST["closed log"], LOST["log without reader"]) == [3, 3]
    assert _codes(site, "runs list", LOST["full output"], LOST["output without reader"]) == [4, 0]
    assert _codes(site, "--version", LOST["both full"]) == [4]


@pytest.mark.slow
@pytest.mark.parametrize("command", OF_SOURCES)
def test_a_load_keeps_the_code_of_its_source(site: Site, command: str) -> None:
    """The exit code is that of the source or the error whatever stream cannot be written."""
    _make_sources(site)
    assert _codes(site, command, *LOST.values()) == [OF_SOURCES[command]] * len(LOST)


@pytest.mark.slow
@pytest.mark.parametrize("command", OF_RESULTS)
def test_a_result_that_cannot_be_written_is_4(site: Site, command: str) -> None:
    """Exit code 4 says that the result is not written; who closed the pipe or the stream does not want it."""
    _make_sources(site)
    expected = [4 if "> /dev/full" in how and not how.startswith("2") else OF_RESULTS[command] for how in LOST.values()]
    assert _codes(site, command, *LOST.values()) == expected


def test_a_replay_keeps_its_code(site: Site) -> None:
    """A replay whose summary cannot be written ends with the code of its records."""
    _make_sources(site)
    site.run("load", "vehicles", "a.json", "--no-precalculate")
    assert _codes(site, "failed replay --all --no-precalculate", LOST["both full"], LOST["both full"]) == [1, 1]


def test_a_command_that_changes_data_finishes_without_a_reader(site: Site) -> None:
    """All named files are discarded although nobody reads the lines."""
    for name in ("a", "b", "c"):
        (site.folder / f"{name}.json").write_text(json.dumps([{"vehicle_id": None, "depot": name}]))
        site.run("load", "vehicles", f"{name}.json", "--no-precalculate")
    ids = " ".join(site.column("select id from etl.failures"))
    assert _codes(site, f"failed discard {ids} --reason test", LOST["output without reader"]) == [0]
    assert site.column("select distinct state from etl.failures") == ["discarded"]


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "broken pipe"), EOFError()])
def test_an_error_that_click_handles_itself_is_a_fault(
    site: Site, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """A broken pipe that is not standard output is a fault of this tool, not 1 or 130 as Click would end it."""

    def broken(*_arguments: object) -> None:
        raise error

    monkeypatch.setattr("etl.datasets.look", broken)
    done = site.run("dataset", "list", may_be_faulty=True)
    assert done.returncode == 70


_ENDING = """
import atexit, gc, sys
from etl.__main__ import main

class Global:
    def __del__(self):
        print("freed")

left = Global()
begun = atexit.register
def register(*args):  # After that of the program.
    atexit.register = begun
    begun(*args)
    begun(lambda: print("closed", gc.isenabled()))
atexit.register = register
sys.argv = ["etl", *sys.argv[1:]]
main()
"""


@pytest.mark.parametrize(("words", "code"), [(["load", "--help"], 0), (["load"], 2)])
def test_a_process_ends_without_freeing_its_objects(words: list[str], code: int) -> None:
    """All output is written, what waits for the end is called, and cycles of objects are freed meanwhile."""
    done = subprocess.run(
        [sys.executable, "-c", _ENDING, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == code
    assert "freed" not in done.stdout
    assert done.stdout.endswith("closed True\n")
    assert (len(done.stdout) > 1000) == (code == 0)
    assert done.stderr == "" or code
