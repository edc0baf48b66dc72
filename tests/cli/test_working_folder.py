"""Folders and paths that a command cannot use are errors of the caller, never a fault of the tool."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.site import Site

COMMANDS = ("load vehicles /dev/null", "runs list", "failed list", "dataset list", "init", "db url", "report")
as_nobody = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become another user")


def _refused(site: Site, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a program in the folder of the site; its exit code is 2."""
    done = subprocess.run(
        words, cwd=site.folder, env=site.environment(), capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 2, done.stderr
    return done


@pytest.mark.parametrize("command", COMMANDS)
def test_a_deleted_working_folder_is_2(site: Site, command: str) -> None:
    """A command in a folder that was deleted names it in one sentence."""
    gone = site.folder / "gone"
    gone.mkdir()
    etl = f"{sys.executable} -m etl"
    script = f"cd gone && rmdir ../gone && {etl} {command}"
    done = _refused(site, "/bin/sh", "-c", script)
    assert "error: the working folder cannot be used: no such file or directory\nhint: " in done.stderr
    assert "Traceback" not in done.stderr


@as_nobody
def test_a_working_folder_that_may_not_be_entered_is_2(site: Site) -> None:
    """A working folder of another user, as after su, is wrong usage."""
    site.folder.chmod(0o700)
    script = (
        "import os, sys, etl.cli.dataset, etl.cli.messages, etl.logs; from etl import cli;"
        f" os.chdir({str(site.folder)!r}); os.setgid(65534); os.setuid(65534);"
        " sys.exit(cli.run(sys.argv[1:]))"
    )
    done = _refused(site, sys.executable, "-c", script, "dataset", "list")
    assert "error: the working folder cannot be used: permission denied" in done.stderr


@pytest.mark.parametrize("name", ["a\nb.json", "x" * 300, "loop/a.json", "file/a.json"])
def test_a_path_that_cannot_be_used_is_one_sentence(site: Site, name: str) -> None:
    """A path with a line feed, too long a name, a loop of links or a file as a folder: a reason and no fault."""
    (site.folder / "loop").symlink_to("loop")
    (site.folder / "file").touch()
    assert site.run("load", "vehicles", name).returncode == 3
    for words in (
        ["dataset", "check", "vehicles", name],
        ["dataset", "infer", name, "--name", "other"],
        ["generate", "vehicles", "--records", "1", "--output", f"{name}/out.json"],
        ["report", "--output", f"{name}/out.csv"],
        ["dataset", "infer", "a.json", "--name", "other", "--output", f"{name}/other.toml"],
        ["--config-dir", name, "dataset", "list"],
        ["load", "vehicles", "a.json", "--failed-dir", f"{name}/failed"],
        ["load", "vehicles", "a.json", "--metrics-file", f"{name}/etl.prom"],
        ["failed", "show", "x", "--failed-dir", name],
        ["--database", f"embedded:{name}/pg", "runs", "list"],
    ):
        if name.startswith("a\n") and ("--failed-dir" in words or words[0] == "--database" or "--output" in words):
            continue  # A line feed is allowed in a name.
        Path(site.folder / "a.json").write_text('[{"vehicle_id": "V1"}]')
        done = site.run(*words, may_be_faulty=True)
        assert done.returncode in {2, 3}, f"{words}: {done.stderr}"
        assert len(done.errors) == 1, f"{words}: {done.stderr}"
