"""Standard streams that are closed, full or read by nobody: the work is done, and the exit code is true."""

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.support.checkout import ROOT
from tests.support.faults import Connection


def _shell(script: str, folder: Path, database_url: str) -> subprocess.CompletedProcess[str]:
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "ETL_DATABASE_URL": database_url, "HOME": str(folder)}
    words = ["/bin/bash", "-c", f'etl() {{ {sys.executable} -m etl "$@"; }}; {script}']
    return subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, timeout=60, check=False)


def test_a_load_outlives_its_reader(database_url: str, postgresql: Connection, tmp_path: Path) -> None:
    """A load whose output nobody reads, or whose disk is full, loads all sources and ends with its own exit code."""
    (tmp_path / "a.json").write_text(json.dumps([{"vehicle_id": "V1"}]))
    (tmp_path / "b.json").write_text(json.dumps([{"vehicle_id": "V2"}, {"vehicle_id": None}]))
    load = "etl load vehicles a.json b.json --json --no-precalculate --max-rejected 1"
    # The reader is gone before the first line comes.
    done = _shell(
        f"{load} | exec sleep 0; echo ${{PIPESTATUS[0]}}; {load} > /dev/full; echo $?", tmp_path, database_url
    )
    assert done.stdout.split() == ["1", "1"]
    assert done.stderr.count('"output_lost"') == 2
    assert "Traceback" not in done.stderr
    found = postgresql.execute("select vehicle_id, count(*) from logistics.vehicles group by 1 order by 1").fetchall()
    assert found == [("V1", 1), ("V2", 1)]


def test_streams_that_are_closed(database_url: str, postgresql: Connection, tmp_path: Path) -> None:
    """A command without standard output prints nowhere, one without standard input reads nothing: exit code 3."""
    done = _shell(
        "etl load vehicles - --no-precalculate <&- >&-; echo $?; etl runs list >&-; echo $?", tmp_path, database_url
    )
    assert done.stdout.split() == ["3", "0"]
    assert "expected JSON, the source is empty" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_list_that_is_cut_short_ends_as_unix_tools_do(
    database_url: str, postgresql: Connection, tmp_path: Path
) -> None:
    """`etl ... | head -1` ends by SIGPIPE and says nothing; a shell tells that as 141."""
    done = _shell(
        "etl generate vehicles --records 20000 --format ndjson | head -c 1 >&2; echo ${PIPESTATUS[0]}",
        tmp_path,
        database_url,
    )
    assert (done.stdout, done.stderr) == ("141\n", "{")
