#!/usr/bin/env python3
"""Build in dist/ all that a release has, from the last commit, and check each part as its users would use it.

    make release [TAG=v1.2.3] [REPOSITORY_URL=https://...]

sdist and wheel, the list of what an installation holds (SBOM, CycloneDX), the image where docker runs, and SHA256SUMS.
It publishes nothing. With TAG it refuses a tag that is not the version, and a version that the changelog does not have.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
TOOLS = ROOT / ".venv-release" / "bin"
PLACEHOLDER = "https://git.example.com/logistics-etl"


class ReleaseError(Exception):
    """What is wrong with the release."""


def main() -> int:
    """Build and check; return the exit code."""
    try:
        with tempfile.TemporaryDirectory() as name:
            release(Path(name), os.environ.get("TAG", ""), os.environ.get("REPOSITORY_URL", ""))
    except ReleaseError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def release(folder: Path, tag: str, repository_url: str) -> None:
    """Build the parts in `folder` and move them to dist/ when all of them are right."""
    source, parts, work = (folder / name for name in ("source", "dist", "work"))
    for each in (source, parts, work):
        each.mkdir()
    export(source)
    version = version_of(source)
    require_tag(tag, version, (source / "CHANGELOG.md").read_text(encoding="utf-8"))
    name_repository(source / "pyproject.toml", repository_url)
    build(source, parts)
    wheel = next(parts.glob("*.whl"))
    python = install(wheel, folder / "venv")
    use(python.parent, version, work)
    describe(python, source, parts / f"logistics-etl-{version}.cdx.json")
    image(source, version, parts)
    (parts / "SHA256SUMS").write_text(sums(parts), encoding="utf-8")
    shutil.rmtree(DIST, ignore_errors=True)
    shutil.copytree(parts, DIST)
    say(f"complete in {DIST}: {', '.join(sorted(path.name for path in DIST.iterdir()))}")


def say(text: str) -> None:
    """Tell one line."""
    sys.stdout.write(f"release: {text}\n")
    sys.stdout.flush()


def run(*command: str | Path, cwd: Path, env: Mapping[str, str] | None = None) -> str:
    """Run a program; return its stdout. Raises ReleaseError with its output when it fails."""
    done = subprocess.run(  # noqa: S603 - the programs of this file
        [str(word) for word in command],
        cwd=cwd,
        env=None if env is None else dict(env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        words = " ".join(str(word) for word in command)
        raise ReleaseError(f"{words} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def export(source: Path) -> None:
    """Write the files of the last commit to a folder: what is not committed is in no release."""
    if run("git", "status", "--porcelain", cwd=ROOT):
        say("changes that are not committed are left out")
    archive = source.parent / "source.tar"
    run("git", "archive", "--output", archive, "HEAD", cwd=ROOT)
    with tarfile.open(archive) as files:
        files.extractall(source, filter="data")


def version_of(source: Path) -> str:
    """Return the version of the program."""
    found = re.search(r'^__version__ = "(.+)"$', (source / "etl" / "version.py").read_text(), re.MULTILINE)
    if found is None:
        raise ReleaseError("etl/version.py names no version")
    return found[1]


def require_tag(tag: str, version: str, changelog: str) -> None:
    """Raise ReleaseError when a tag is not that of the version, or the changelog does not have the version."""
    if not tag:
        say(f"version {version}, without a tag")
        return
    if tag != f"v{version}":
        raise ReleaseError(f"the tag {tag} is not v{version}: change etl/version.py, or the tag")
    if not re.search(rf"^## {re.escape(version)}\b", changelog, re.MULTILINE):
        raise ReleaseError(f"CHANGELOG.md has no part '## {version}': rename '## Unreleased', and commit")


def name_repository(project: Path, url: str) -> None:
    """Put the address of the repository into the metadata."""
    text = project.read_text(encoding="utf-8")
    if not url:
        say(f"the metadata names {PLACEHOLDER}, which leads nowhere: give REPOSITORY_URL before you publish")
        return
    if not re.fullmatch(r"https://[\w.-]+(/[\w.-]+)+", url):
        raise ReleaseError(f"REPOSITORY_URL is {url!r}, expected an address such as https://HOST/OWNER/NAME")
    project.write_text(text.replace(PLACEHOLDER, url), encoding="utf-8")


def build(source: Path, parts: Path) -> None:
    """Build the sdist, and the wheel from the sdist, and check their metadata."""
    # The same commit gives the same bytes.
    committed = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    env = {**os.environ, "SOURCE_DATE_EPOCH": committed}
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", parts, cwd=source, env=env)
    files = sorted(parts.iterdir())
    run(TOOLS / "twine", "check", "--strict", *files, cwd=source)
    say(f"built {', '.join(path.name for path in files)}; twine accepts their metadata")


def install(wheel: Path, folder: Path) -> Path:
    """Install the wheel with the pinned versions into an empty environment; return its Python."""
    venv.create(folder, symlinks=True, with_pip=False)
    python = folder / "bin" / "python"
    pins = ("-c", ROOT / "constraints.txt")
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *pins, wheel, cwd=folder)
    run(sys.executable, "-m", "pip", "--python", python, "check", cwd=folder)
    return python


def use(programs: Path, version: str, folder: Path) -> None:
    """Use the installation as a new user would: in an empty folder and home, with the embedded server."""
    env = {"PATH": f"{programs}:/usr/bin:/bin", "HOME": str(folder), "LC_ALL": "C.UTF-8", "ETL_LOG_LEVEL": "warning"}

    def etl(*words: str) -> str:
        return run(programs / "etl", *words, cwd=folder, env=env)

    if version not in etl("--version"):
        raise ReleaseError(f"etl --version does not print {version}")
    etl("init")
    etl("generate", "shipments", "--records", "1000", "--seed", "1", "--output", "shipments.json")
    etl("load", "shipments", "shipments.json")
    if "already_loaded" not in etl("load", "shipments", "shipments.json"):
        raise ReleaseError("a second load did not find the source loaded")
    query = "select count(*) from logistics.shipments"
    if etl("db", "psql", "--", "--no-psqlrc", "--tuples-only", "--command", query).strip() != "1000":
        raise ReleaseError("the table does not hold the records")
    run(programs / "etl-retry", "etl", "precalculate", "--verify", cwd=folder, env=env)
    say("an installation of the wheel loads a file into an embedded PostgreSQL, and verifies the aggregates")


def describe(python: Path, source: Path, output: Path) -> None:
    """Write the list of what an installation of the wheel holds."""
    options = ("--output-reproducible", "--pyproject", source / "pyproject.toml", "--output-file", output)
    run(TOOLS / "cyclonedx-py", "environment", *options, python, cwd=source)
    if str(python.parents[2]) in output.read_text(encoding="utf-8"):
        raise ReleaseError(f"{output.name} names a folder of this machine")
    say(f"{output.name} lists the packages of an installation")


def image(source: Path, version: str, parts: Path) -> None:
    """Build the image, let it tell its version, and save it; leave it out where no docker runs."""
    docker = shutil.which("docker")
    if docker is None or subprocess.run([docker, "info"], capture_output=True, check=False).returncode:  # noqa: S603 - the found program
        say("no docker runs here: the image is left out")
        return
    name = f"logistics-etl:{version}"
    run(docker, "build", "--tag", name, source, cwd=source)
    if version not in run(docker, "run", "--rm", name, "--version", cwd=source):
        raise ReleaseError(f"the image does not print {version}")
    saved = source.parent / "image.tar"
    run(docker, "save", "--output", saved, name, cwd=source)
    with saved.open("rb") as plain, gzip.open(parts / f"logistics-etl-{version}-image.tar.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    say(f"the image {name} runs")


def sums(parts: Path) -> str:
    """Return a line for each file, as sha256sum prints it."""
    files = sorted(path for path in parts.iterdir() if path.is_file())
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


if __name__ == "__main__":
    sys.exit(main())
