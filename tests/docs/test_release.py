"""The release: what it refuses, its workflow, and all of its parts."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import release
from scripts.release import ReleaseError
from tests.support.checkout import ROOT

WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
JOBS: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]


def test_the_workflows_are_what_their_schema_allows() -> None:
    """No unknown key in any of them."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows"]
    done = subprocess.run([*command, *map(str, WORKFLOWS)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "release.yml"]


def steps(key: str) -> list[str]:
    """Return what the steps of the release have for a key, in their order."""
    return [str(step[key]) for job in JOBS.values() for step in job["steps"] if key in step]


def test_a_release_is_tested_before_it_is_built_and_built_before_it_is_drafted() -> None:
    """The tag reaches the scripts as a variable, and only the last job may write."""
    assert [(name, job.get("needs")) for name, job in JOBS.items()] == [
        ("test", None), ("build", "test"), ("draft", "build")
    ]  # fmt: skip
    assert [name for name, job in JOBS.items() if "permissions" in job] == ["draft"]
    assert steps("run")[:2] == [".ci/run", "make release"]
    assert not [script for script in steps("run") if "${{" in script]
    assert {JOBS[name]["env"]["TAG"] for name in ("build", "draft")} == {"${{ github.ref_name }}"}


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_actions_are_pinned_by_a_version(path: Path) -> None:
    """Not by a branch, which changes."""
    used = re.findall(r"uses: (\S+)", path.read_text())
    assert used
    assert [action for action in used if not re.fullmatch(r"actions/[\w-]+@v\d+(\.\d+)*", action)] == []


def test_a_tag_is_that_of_the_version_and_the_changelog_has_it() -> None:
    """Without a tag nothing is asked."""
    changelog = "# Changelog\n\n## Unreleased\n\n## 1.2.3\n"
    release.require_tag("", "1.2.4", changelog)
    release.require_tag("v1.2.3", "1.2.3", changelog)
    with pytest.raises(ReleaseError, match=r"the tag v1\.2\.4 is not v1\.2\.3"):
        release.require_tag("v1.2.4", "1.2.3", changelog)
    with pytest.raises(ReleaseError, match=r"CHANGELOG\.md has no part '## 1\.2'"):
        release.require_tag("v1.2", "1.2", "## 1x2\n")


def test_the_metadata_gets_the_address_of_the_repository(tmp_path: Path) -> None:
    """It replaces the address that leads nowhere; what is no address is refused."""
    project = tmp_path / "pyproject.toml"
    shutil.copy(ROOT / "pyproject.toml", project)
    release.name_repository(project, "")
    assert project.read_text() == (ROOT / "pyproject.toml").read_text()
    for wrong in ("git.example.org/us/etl", "https://me:pw@git.example.org/us", 'https://a/b"\nname = "x'):
        with pytest.raises(ReleaseError, match="expected an address"):
            release.name_repository(project, wrong)
    release.name_repository(project, "https://git.example.org/us/etl")
    assert 'Changelog = "https://git.example.org/us/etl/blob/main/CHANGELOG.md"' in project.read_text()
    assert release.PLACEHOLDER not in project.read_text()


def test_the_version_is_found_where_the_build_finds_it() -> None:
    """As the file of the version has it."""
    assert f'"{release.version_of(ROOT)}"' in (ROOT / "etl" / "version.py").read_text()


@pytest.mark.slow
def test_all_parts_of_a_release_are_built_and_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the last commit; the wheel has the address, and the sums are those of the files."""
    subprocess.run(["make", ".venv-release/.installed"], cwd=ROOT, check=True, capture_output=True)
    for name in [name for name in os.environ if name.startswith(("ETL_", "PG"))]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(release, "DIST", tmp_path / "dist")
    (tmp_path / "folder").mkdir()
    release.release(tmp_path / "folder", "", "https://git.example.org/us/etl")
    version = release.version_of(ROOT)
    found = {path.name: path.read_bytes() for path in (tmp_path / "dist").iterdir()}
    lines = (line.split("  ") for line in found.pop("SHA256SUMS").decode().splitlines())
    sums = {name: digest for digest, name in lines}
    assert sums == {name: hashlib.sha256(content).hexdigest() for name, content in found.items()}
    parts = {
        f"logistics_etl-{version}-py3-none-any.whl",
        f"logistics_etl-{version}.tar.gz",
        f"logistics-etl-{version}.cdx.json",
    }
    assert parts <= set(found)
    assert b"psycopg" in found[f"logistics-etl-{version}.cdx.json"]
