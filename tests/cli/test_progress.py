"""The progress of a running load, and the lines at its end."""

import fcntl
import gzip
import json
import os
import re
import shlex
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import structlog
from rich.cells import cell_len

from etl import cli
from etl.cli import progress
from etl.cli.load import sentence, total_of
from etl.cli.progress import Lines, Pace
from etl.ingestion.pipeline.job import Progress
from etl.ingestion.summary import Balance, Summary
from tests.support.site import Site

NAME = "a-name-that-is-seen-in-the-bar"
COLOR = re.compile(r"\x1b\[[0-9;]*m")


def _vehicles(first: int, count: int) -> bytes:
    return b"".join(b'{"vehicle_id": "V%d", "name": "%s"}\n' % (number, b"x" * 60) for number in range(first, count))


def _on_a_terminal(words: list[str], site: Site, columns: int = 110, **env: str) -> tuple[str, str, int]:
    """Run a command whose stderr is a terminal; return its output there, stdout and the exit code."""
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    output = b""
    with subprocess.Popen(
        [sys.executable, "-m", "etl", *words],
        cwd=site.folder,
        env=site.environment({"TERM": "xterm-256color"} | env),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        try:
            while data := os.read(ours, 65536):
                output += data
        except OSError:  # Linux reports so that no process has the terminal open.
            pass
        assert process.stdout is not None
        stdout = process.stdout.read().decode()
    os.close(ours)
    return output.decode(), stdout, process.returncode


def _screen(output: str) -> list[str]:
    """Return the lines that a terminal shows after this output."""
    lines, row, column = [""], 0, 0
    for part in re.findall(r"\x1b\[[?0-9;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", output):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
            lines += [""] * (row + 1 - len(lines))
        elif part == "\x1b[2K":
            lines[row] = ""
        elif part.endswith("A") and part.startswith("\x1b"):
            row = max(0, row - int(part[2:-1]))
        elif not part.startswith("\x1b"):
            lines[row] = lines[row][:column].ljust(column) + part + lines[row][column + len(part) :]
            column += len(part)
    return [line.rstrip() for line in lines if line.strip()]


@pytest.mark.slow
def test_a_terminal_shows_bars_and_whole_lines_of_the_log(site: Site) -> None:
    """Each source has a bar, several sources one more; lines of the log, also of workers, are complete above them."""
    (site.folder / f"{NAME}.ndjson.gz").write_bytes(gzip.compress(_vehicles(0, 24_000)))
    (site.folder / "b.ndjson").write_bytes(_vehicles(24_000, 27_000))
    words = ["--log-level", "debug", "load", "vehicles", f"{NAME}.ndjson.gz", "b.ndjson", "--batch-rows", "100"]
    output, stdout, exit_code = _on_a_terminal([*words, "--workers", "2"], site, NO_COLOR="1")
    assert exit_code == 0
    assert re.search(NAME + r".*━.* \d+ % [\d,]+ records [\d,]+/s 0 rejected", output)
    assert "2 of 2 sources" in output
    assert "precalculating: " in output
    assert "\x1b[?25h" in output, "the cursor is shown again"
    assert not COLOR.search(output), "NO_COLOR takes the colours and leaves the bar"
    shown = _screen(output)
    assert not [line for line in shown if "━" in line or "precalculating" in line]
    assert sum(bool(re.match(r"\d{4}-.* batch_loaded .*offset=\d+", line)) for line in shown) == 270
    first, _, of_all, _ = stdout.splitlines()
    assert first.startswith(f"loaded vehicles from {NAME}.ndjson.gz: 24,000 read, 24,000 loaded in ")
    assert of_all.startswith("2 sources, 2 loaded: 27,000 read, 27,000 loaded in ")


@pytest.mark.parametrize("columns", [60, 80])
def test_a_narrow_terminal_shortens_the_name(site: Site, columns: int) -> None:
    """Bar, share, rate and time left stay in one line, and the name of the file stays readable at its end."""
    path = site.folder / "東京" / ("a-folder-with-a-long-name-" * 4) / "deliveries-2026-11-21.ndjson"
    path.parent.mkdir(parents=True)
    path.write_bytes(_vehicles(0, 20_000))
    words = ["load", "vehicles", str(path.relative_to(site.folder)), "--batch-rows", "250", "--no-precalculate"]
    output, _, exit_code = _on_a_terminal(words, site, columns, NO_COLOR="1")
    assert exit_code == 0
    drawn = [line for line in re.split(r"[\r\n]|\x1b\[[?0-9;]*[A-Za-z]", output) if "━" in line]
    assert max(map(cell_len, drawn)) <= columns
    last = drawn[-1]
    assert re.search(r"^東京.*…\S*-11-21.ndjson ━{8,} +\d+ % .*[\d,]+/s .*\d:\d\d left *$", last), drawn


def test_a_log_for_programs_has_no_bar(site: Site) -> None:
    """With --log-format json no bar is drawn on a terminal."""
    (site.folder / "a.ndjson").write_bytes(_vehicles(0, 10))
    words = ["--log-format", "json", "load", "vehicles", "a.ndjson", "--no-precalculate"]
    output, _, exit_code = _on_a_terminal(words, site)
    assert exit_code == 0
    assert "\x1b" not in output
    assert [json.loads(line)["event"] for line in output.splitlines()] == ["source_ended"]


def test_without_a_terminal_the_log_reports_progress(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal, a line of the log has records, share, speed and time left, and rich is not imported."""
    (tmp_path / "a.ndjson.gz").write_bytes(gzip.compress(_vehicles(0, 3_000)))
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    monkeypatch.setenv("ETL_DATABASE_URL", database_url)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    before = {name for name in sys.modules if name.startswith("rich")}
    words = ["load", "vehicles", "a.ndjson.gz", "--batch-rows", "1000", "--no-precalculate", "--workers", "1"]
    try:
        assert cli.run(words) == 0
    finally:
        structlog.reset_defaults()
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    progressed = [line for line in lines if line["event"] == "source_progressed"]
    assert [line["records"] for line in progressed] == [1000, 2000, 3000]
    # The share of a compressed file is an estimate from the bytes that were read ahead.
    assert [line["percent"] for line in progressed] == [pytest.approx(share, abs=5) for share in (33, 66, 99)]
    assert progressed[-1]["seconds_left"] == 0
    assert {"source", "run", "rejected", "bytes", "records_per_second"} <= progressed[0].keys()
    assert {name for name in sys.modules if name.startswith("rich")} == before


def test_progress_is_logged_every_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten seconds are between two lines, for any number of batches and datasets; a stream has no share."""
    clock, logged = [100.0], list[dict[str, Any]]()
    monkeypatch.setattr(
        progress, "log", SimpleNamespace(info=lambda event, **keys: logged.append({"event": event} | keys))
    )
    lines, counts, others = Lines(lambda: clock[0]), Progress(), Progress(skipped=9, rejected=1)
    stream: Any = SimpleNamespace(source=SimpleNamespace(name="-"), size=None, position=0, stored_position=0)
    with lines.watching(stream, [counts, others]):
        for _ in range(25):
            clock[0] += 1
            counts.entered += 500
            lines.moved()
    lines.moved()
    assert [line["records"] for line in logged] == [5_009, 10_009]
    assert [line["rejected"] for line in logged] == [1, 1]
    assert [line["records_per_second"] for line in logged] == [500, 500]
    assert "percent" not in logged[0]


def test_pace_is_that_of_the_last_seconds() -> None:
    """Speed and time left follow the last seconds, not the whole load; without progress there is no time left."""
    pace = Pace(0)
    assert (pace.records_per_second, pace.seconds_left(100)) == (0, None)
    for second in range(1, 61):
        pace.note(second, 1000 * second, 10 * second)
    for second in range(61, 101):
        pace.note(second, 60_000 + 100 * (second - 60), 600 + (second - 60))
    assert pace.records_per_second == pytest.approx(100)
    assert pace.seconds_left(740) == pytest.approx(100)


def _summary(**figures: Any) -> Summary:
    counts = dict.fromkeys(("read", "loaded", "rejected", "failed", "skipped", "withheld", "pending"), 0)
    values: dict[str, Any] = {
        "run": "R",
        "dataset": "d",
        "source": "s",
        "database": "h/d",
        "status": "loaded",
        "exit_code": 0,
    }
    values |= {"rows": {"a": 0}, "batches": {}, "bytes_read": 0, "seconds": 2.0, "failed_store": None}
    known = {name: figures.pop(name) for name in list(figures) if name in counts}
    return Summary(records=Balance(**counts | known), **values | figures)


@pytest.mark.parametrize(
    ("summary", "expected"),
    [
        (
            _summary(read=4_000, loaded=4_000, rows={"a": 4_000, "b": 16_000}, bytes_read=3_000_000),
            "loaded d from s: 4,000 read, 4,000 loaded in 2.0 s (2,000 records/s, 1.5 MB/s); rows: a 4,000, b 16,000",
        ),
        (
            _summary(read=10, loaded=9, rejected=1, pending=1, status="loaded_with_rejects"),
            "loaded_with_rejects d from s: 10 read, 9 loaded, 1 rejected in 2.0 s (4 records/s); 1 wait in the failed "  # noqa: ISC004 - one line of output
            "store: etl failed show --run R",
        ),
        (
            _summary(read=8, skipped=2, withheld=6, status="incomplete", exit_code=4),
            "incomplete d from s: 8 read, 0 loaded, 2 skipped, 6 withheld in 2.0 s; next: etl runs show R",
        ),
        (
            _summary(read=8, skipped=8, status="already_loaded"),
            "already_loaded d from s: 8 read, 0 loaded, 8 skipped in 2.0 s",
        ),
    ],
)
def test_a_source_ends_in_one_line(summary: Summary, expected: str) -> None:
    """The line has the counts of records, the speed, the place of pending records, and the next command."""
    here = f"cd {shlex.quote(str(Path.cwd()))} && "  # of a reader elsewhere
    assert sentence(summary).replace(here, "") == expected


def test_several_sources_end_in_a_total() -> None:
    """One more line has the total of several sources."""
    several = [_summary(read=10, loaded=10), _summary(read=5, loaded=4, rejected=1, status="loaded_with_rejects")]
    assert total_of(several) == (
        "2 sources, 1 loaded, 1 loaded_with_rejects: 15 read, 14 loaded, 1 rejected in 4.0 s (4 records/s)"
    )


def test_a_line_of_another_process_takes_the_place_of_the_bar() -> None:
    """A line that a worker writes while two bars are drawn is above them; the next drawing is in the right place."""
    redraw = "\r\x1b[2K\x1b[1A\x1b[2Kbar\r\nall of it"
    line = "\r\x1b[2K\x1b[1A\x1b[2Ka line of a worker\r\n\r\n"
    assert _screen(f"before\r\nbar\r\nall of it{redraw}{line}{redraw}{line}{redraw}") == [
        *("before", "a line of a worker", "a line of a worker", "bar", "all of it"),
    ]
