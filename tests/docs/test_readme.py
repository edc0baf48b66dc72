"""The README, followed in its own order in a clone."""

import os
import re
import shutil
import subprocess
import sys
from difflib import unified_diff
from pathlib import Path

import pytest

from scripts import update_docs
from tests.support.checkout import MEASURED, ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def git(clone: Path, *words: str) -> str:
    """Run git in the clone, and return what it prints."""
    identity = ["-c", "user.name=reader", "-c", "user.email=reader@example.com"]
    done = subprocess.run(["git", *identity, *words], cwd=clone, capture_output=True, text=True, check=True)
    return done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a clone of the checkout as it is now, with the program that `make` installs."""
    folder = tmp_path / "clone"
    folder.mkdir()
    for name in git(ROOT, "ls-files", "--cached", "--others", "--exclude-standard", "-z").split("\0"):
        if name and (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a clone")
    program = folder / ".venv" / "bin" / "etl"
    program.parent.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nPYTHONPATH={folder} exec {sys.executable} -m etl "$@"\n')
    program.chmod(0o755)
    return folder


def shell_blocks() -> list[str]:
    """Return the blocks that a reader types, in their order."""
    return re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def follow(clone: Path, home: Path, block: str) -> list[str]:
    """Run a block in the clone; return the folder in which it ends, and the program that the shell finds then."""
    home.mkdir(exist_ok=True)
    done = subprocess.run(
        ["/bin/sh", "-euc", f"{block}\npwd\ncommand -v etl"],
        cwd=clone,
        env={"PATH": "/usr/bin:/bin", "HOME": str(home)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines()


def test_the_first_two_commands_are_those_of_a_newcomer() -> None:
    """From a fresh clone to a running load, and to passing tests."""
    commands = [line.partition("#")[0].strip() for line in shell_blocks()[0].splitlines()]
    assert [command for command in commands if command] == ["make demo", "make test"]


def test_the_readme_leads_out_of_the_clone_before_it_makes_files(clone: Path, tmp_path: Path) -> None:
    """What follows the demo begins in an empty folder, with the program of the clone; another database is the last."""
    home = tmp_path / "home"
    blocks = shell_blocks()
    assert follow(clone, home, blocks[1]) == [str(home / "etl-first-steps"), str(clone / ".venv" / "bin" / "etl")]
    assert list((home / "etl-first-steps").iterdir()) == []
    assert README.index(blocks[1]) < README.index("```console")
    assert README.rindex("```console") < README.index("export ETL_DATABASE_URL=")
    assert git(clone, "status", "--porcelain") == ""


@pytest.mark.slow
def test_the_readme_works_in_its_order_after_the_demo(
    clone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an empty home: the demo, then every transcript with the embedded database, prints what the page says."""
    home = tmp_path / "home"
    environment = {"PATH": os.environ["PATH"], "HOME": str(home), **MEASURED}
    home.mkdir()
    (clone / ".venv" / ".installed").touch()
    done = subprocess.run(
        ["make", "demo"], cwd=clone, env=environment, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^loaded shipments from .*: 200,000 read, 200,000 loaded", done.stdout, re.MULTILINE)
    folder, _ = follow(clone, home, shell_blocks()[1])
    monkeypatch.chdir(folder)
    printed = update_docs.with_transcripts(README, Path(folder), "embedded:")
    assert list(unified_diff(README.splitlines(), printed.splitlines())) == []
    assert git(clone, "status", "--porcelain") == ""
