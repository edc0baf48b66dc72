"""The report of `make coverage`: a table of the rooms, and the rooms whose coverage is too low."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from scripts import coverage_by_room
from scripts.coverage_by_room import ALL, BOUNDS, by_room, percent, room, table, too_low
from tests.support.checkout import ROOT


def _file(statements: int, covered: int, branches: int = 0, covered_branches: int = 0) -> dict[str, int]:
    return {
        "num_statements": statements,
        "covered_lines": covered,
        "num_branches": branches,
        "covered_branches": covered_branches,
        "missing_lines": statements - covered,
    }


# Every room with a bound is at its bound, and so is the total; a room without a bound has low coverage.
AT_THE_BOUNDS = {
    "etl/ingestion/framing/pieces.py": _file(60, 58, 40, 37),
    "etl/ingestion/transform/paths.py": _file(100, 95),
    "etl/ingestion/ledger/runs.py": _file(100, 95),
    "etl/cli/load.py": _file(100, 80),
    "etl/errors.py": _file(10, 9),
}


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("etl/ingestion/framing/pieces.py", "ingestion/framing"),
        ("etl/ingestion/values.py", "ingestion"),
        ("etl/cli/load.py", "cli"),
        ("etl/errors.py", "etl itself"),
    ],
)
def test_a_file_counts_for_its_folder(path: str, name: str) -> None:
    """A room is a folder of etl/ or of etl/ingestion/; the modules outside of folders are a room, too."""
    assert room(path) == name


def test_the_bounds_name_rooms_that_exist() -> None:
    """Each bound is for a folder with modules, so that a room cannot move without its bound."""
    for name in set(BOUNDS) - {ALL}:
        assert list((ROOT / "etl" / name).glob("[a-z]*.py")), name


def test_statements_and_branches_count_alike() -> None:
    """The coverage of a room is the share of its statements and branches over all its files; ALL is the total."""
    rooms = by_room({
        "etl/cli/load.py": _file(10, 5),
        "etl/cli/db.py": _file(20, 20, 10, 7),
        "etl/errors.py": _file(10, 9),
        "etl/empty/__init__.py": _file(0, 0),
    })  # fmt: skip
    assert percent(rooms["cli"]) == 80.0
    assert percent(rooms[ALL]) == 82.0
    assert percent(rooms["empty"]) == 100.0


@pytest.mark.parametrize(
    ("path", "fewer", "low"),
    [
        ("etl/ingestion/framing/pieces.py", 1, ["ingestion/framing"]),
        ("etl/ingestion/transform/paths.py", 1, ["ingestion/transform"]),
        ("etl/ingestion/ledger/runs.py", 1, ["ingestion/ledger"]),
        ("etl/cli/load.py", 10, [ALL]),
    ],
)
def test_a_room_at_its_bound_is_covered_enough(path: str, fewer: int, low: list[str]) -> None:
    """Coverage at the bounds is enough; one line less is too low, for a room and for all of etl/."""
    counts = AT_THE_BOUNDS[path]
    spoiled = AT_THE_BOUNDS | {path: counts | {"covered_lines": counts["covered_lines"] - fewer}}
    assert too_low(by_room(AT_THE_BOUNDS)) == []
    assert too_low(by_room(spoiled)) == low


def test_a_bounded_room_that_is_not_measured_is_too_low() -> None:
    """A room with a bound and without a measured file is too low, because it may have moved."""
    without = {path: counts for path, counts in AT_THE_BOUNDS.items() if "ledger" not in path}
    assert too_low(by_room(without)) == ["ingestion/ledger"]


def test_the_table_has_a_line_for_each_room() -> None:
    """The rooms are listed by name, and all of etl/ is last; a figure is rounded down, so that it shows a miss."""
    rooms = by_room(AT_THE_BOUNDS | {"etl/ingestion/ledger/runs.py": _file(10000, 9499)})
    assert list(table(rooms))[2:] == [
        "| cli | 100 | 0 | 80.0 % |  |",
        "| etl itself | 10 | 0 | 90.0 % |  |",
        "| ingestion/framing | 60 | 40 | 95.0 % | 95 % |",
        "| ingestion/ledger | 10000 | 0 | 94.9 % | 95 % |",
        "| ingestion/transform | 100 | 0 | 95.0 % | 95 % |",
        "| all of etl/ | 10270 | 40 | 94.8 % | 90 % |",
    ]
    assert too_low(rooms) == ["ingestion/ledger"]


@pytest.mark.parametrize(("ledger", "code"), [(95, 0), (94, 1)])
def test_too_little_coverage_ends_with_1(
    ledger: int, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The table is always printed; a room below its bound is named, and the exit code is 1."""
    files = AT_THE_BOUNDS | {"etl/ingestion/ledger/runs.py": _file(100, ledger), "etl/cli/db.py": _file(100, 99)}
    monkeypatch.setattr(coverage_by_room, "measured_files", lambda: files)
    assert coverage_by_room.main() == code
    printed = capsys.readouterr()
    assert f"| ingestion/ledger | 100 | 0 | {ledger}.0 % | 95 % |" in printed.out
    assert printed.err.startswith("covered too little: ingestion/ledger; ") is (code == 1)


def test_a_measured_program_and_its_processes_are_counted(tmp_path: Path) -> None:
    """The settings of the project measure a program, the programs that it starts and its worker processes.

    A process that ends itself at once counts, too. When nothing was measured, the exit code is 1.
    """
    (tmp_path / "etl").mkdir()
    (tmp_path / "etl" / "__init__.py").touch()
    for name in ("program", "child", "worker"):
        (tmp_path / "etl" / f"{name}.py").write_text("def run(deep: bool) -> None:\n    if deep:\n        print()\n")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "start.py").write_text(
        "import multiprocessing, os, subprocess, sys\n"
        "from etl import program, worker\n"
        "if __name__ == '__main__':\n"
        "    program.run(False)\n"
        "    code = 'import os; from etl import child; child.run(True); os._exit(0)'\n"
        f"    environment = os.environ | {{'PYTHONPATH': {str(tmp_path)!r}}}\n"
        "    subprocess.run([sys.executable, '-c', code], cwd='elsewhere', env=environment, check=True)\n"
        "    process = multiprocessing.get_context('spawn').Process(target=worker.run, args=(True,))\n"
        "    process.start()\n"
        "    process.join()\n"
    )
    measure = [sys.executable, "-m", "coverage"]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["coverage"]["run"]
    (tmp_path / "pyproject.toml").write_text(
        "[tool.coverage.run]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in settings.items())
    )
    show = [sys.executable, "-c", "import sys; from scripts.coverage_by_room import main; sys.exit(main())"]
    # This test may be measured itself.
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}

    def run(*words: str, **further: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, cwd=tmp_path, env=environment | further, capture_output=True, text=True, check=False
        )

    nothing = run(*show, PYTHONPATH=str(ROOT))
    assert (nothing.returncode, nothing.stdout) == (1, "")
    assert re.match(r"nothing was measured: .*; run `make coverage`\n", nothing.stderr)
    assert run(*measure, "run", "start.py").returncode == 0
    assert run(*measure, "combine", "--quiet").returncode == 0
    # Each module has two statements and a branch with two ways; the third statement counts where it was run.
    shown = run(*show, PYTHONPATH=str(ROOT))
    assert "| etl itself | 9 | 6 | 73.3 % |  |\n" in shown.stdout
    assert shown.returncode == 1
