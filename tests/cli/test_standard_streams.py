"""With standard streams that are closed, full or without a reader, a load is complete and its exit code is right."""

import json
import subprocess
import sys

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


def test_a_list_that_is_cut_short_ends_as_unix_tools_do(site: Site) -> None:
    """`etl ... | head -1` ends by SIGPIPE without a message; a shell reports it as 141."""
    done = _shell(
        "etl generate vehicles --records 20000 --format ndjson | head -c 1 >&2; echo ${PIPESTATUS[0]}",
        site,
    )
    assert (done.stdout, done.stderr) == ("141\n", "{")
