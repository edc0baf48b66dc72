"""The image, the services and the CI workflow, checked without a container engine."""

import fnmatch
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import in_process
from tests.support.checkout import ROOT

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
VARIABLE = re.compile(r"\$\{(\w+)")


def steps_of_image() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile with their arguments, in order, without comments."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = text.replace("\\\n", " ").splitlines()
    return [(line.split()[0], line.split(maxsplit=1)[1]) for line in lines if line.strip()]


def final_stage() -> list[tuple[str, str]]:
    """Return the instructions of the image that runs."""
    steps = steps_of_image()
    start = max(number for number, (instruction, _) in enumerate(steps) if instruction == "FROM")
    return steps[start:]


def arguments(instruction: str) -> list[str]:
    """Return the arguments of each such instruction of the image that runs."""
    return [argument for name, argument in final_stage() if name == instruction]


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("vendor.compose-spec", "docker-compose.yml"),
        ("vendor.github-workflows", ".github/workflows/ci.yml"),
        ("vendor.github-issue-forms", ".github/ISSUE_TEMPLATE/fault.yml"),
    ],
)
def test_the_file_is_what_its_schema_allows(schema: str, path: str) -> None:
    """The services are valid for the Compose Specification, workflow and form for the schemas of their host."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def has_compose() -> bool:
    """Return whether a compose command is installed; it reads the file without an engine."""
    docker = shutil.which("docker")
    return (
        docker is not None
        and not subprocess.run([docker, "compose", "version"], capture_output=True, check=False).returncode
    )


@pytest.mark.skipif(not has_compose(), reason="no docker compose on this machine")
def test_compose_reads_the_file() -> None:
    """Compose accepts the file with all profiles when a password is set."""
    command = [
        "docker",
        "compose",
        "--env-file",
        ".env.example",
        "--profile",
        "*",
        "config",
        "--format",
        "json",
    ]
    done = subprocess.run(
        command, cwd=ROOT, env={"PATH": "/usr/bin:/usr/local/bin:/bin", "POSTGRES_PASSWORD": "chosen"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert set(json.loads(done.stdout)["services"]) == set(COMPOSE["services"])


def test_the_database_keeps_its_data_where_the_image_has_it() -> None:
    """From PostgreSQL 18 on, the volume of the image is the folder above its data."""
    database = COMPOSE["services"]["database"]
    assert int(database["image"].removeprefix("postgres:")) >= 18
    assert database["volumes"] == ["postgres:/var/lib/postgresql"]
    assert database["healthcheck"]["test"][:2] == ["CMD", "pg_isready"]


def test_a_load_waits_for_a_migrated_database() -> None:
    """The database is healthy before it is migrated, and migrated before anything is loaded."""
    services = COMPOSE["services"]
    assert services["migrate"]["depends_on"] == {"database": {"condition": "service_healthy"}}
    assert services["migrate"]["command"] == ["db", "migrate"]
    assert services["loader"]["depends_on"]["migrate"] == {"condition": "service_completed_successfully"}
    assert services["loader"]["command"][0] == "load"


PROGRAMS = ["migrate", "loader", "listener", "serve", "collect"]


def test_the_listener_is_healthy_while_it_works() -> None:
    """The listener starts after the migration of the database, and its health check is that of the program."""
    listener = COMPOSE["services"]["listener"]
    assert listener["depends_on"] == COMPOSE["services"]["loader"]["depends_on"]
    assert listener["healthcheck"]["test"] == ["CMD", "etl", "listen", "--check"]
    assert "profiles" not in listener


@pytest.mark.parametrize(("process", "asked"), [("etl listen", True), ("etl load shipments a.json", False)])
def test_the_image_checks_only_the_listener(tmp_path: Path, process: str, asked: bool) -> None:
    """The health check of the image checks the listener in a container that runs it, and nothing in one of a load."""
    [check] = [arguments for word, arguments in final_stage() if word == "HEALTHCHECK"]
    first, program = tmp_path / "cmdline", tmp_path / "etl"
    first.write_bytes(process.replace(" ", "\0").encode())
    program.write_text('#!/bin/sh\necho "$@"; exit 4\n')
    program.chmod(0o755)
    shell = check.split("CMD ", 1)[1].replace("/proc/1/cmdline", str(first)).replace("etl listen", f"{program} listen")
    done = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == ((4, "listen --check\n") if asked else (0, ""))


def test_the_service_asks_for_keys_and_is_healthy_when_it_is_ready() -> None:
    """The service with the aggregates asks for keys, because it listens on all addresses of its container."""
    serve = COMPOSE["services"]["serve"]
    words = serve["command"]
    assert words[words.index("--auth") + 1] == "keys"
    assert serve["ports"][0].startswith("127.0.0.1:")
    assert serve["ports"][0].endswith(f":{words[words.index('--port') + 1]}")
    assert "/readyz" in serve["healthcheck"]["test"][-1]
    assert serve["depends_on"] == COMPOSE["services"]["loader"]["depends_on"]


@pytest.mark.parametrize("service", PROGRAMS)
def test_the_services_run_commands_of_the_program(service: str) -> None:
    """Each service runs a command that exists, with options that exist."""
    ended = in_process.call([*COMPOSE["services"][service]["command"], "--help"], env={}, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr


def test_each_volume_is_declared_and_used() -> None:
    """A named volume that a service mounts is declared, and a declared volume is mounted."""
    mounts = [mount for service in COMPOSE["services"].values() for mount in service.get("volumes", ())]
    named = {mount.split(":")[0] for mount in mounts if not mount.startswith((".", "/"))}
    assert named == set(COMPOSE["volumes"])


def test_the_failed_store_outlives_its_container() -> None:
    """The default failed store of the image is a volume, and the loader's is a named one."""
    (folder,) = arguments("WORKDIR")
    assert [f"{folder}/failed"] == [path for text in arguments("VOLUME") for path in json.loads(text)]
    assert f"failed:{folder}/failed" in COMPOSE["services"]["loader"]["volumes"]
    assert f"./input:{folder}/input:ro" in COMPOSE["services"]["loader"]["volumes"]
    assert all(f"./config:{folder}/config:ro" in COMPOSE["services"][name]["volumes"] for name in PROGRAMS)


def test_no_file_holds_a_password() -> None:
    """A password comes from the environment: no file contains one, and a missing one prevents the start."""
    for service in COMPOSE["services"].values():
        for name, value in service.get("environment", {}).items():
            assert "PASSWORD" not in name or value.startswith("${POSTGRES_PASSWORD:?"), name
    assert "POSTGRES_PASSWORD=\n" in (ROOT / ".env.example").read_text()
    assert "PASSWORD" not in (ROOT / "Dockerfile").read_text().upper()
    assert {".env", "/.env"} & set((ROOT / ".gitignore").read_text().split())


def test_the_example_settings_are_those_of_the_services() -> None:
    """`.env.example` has each variable that the services use, and no other."""
    used = set(VARIABLE.findall((ROOT / "docker-compose.yml").read_text()))
    offered = set(re.findall(r"^(\w+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert offered == used


def test_the_loader_has_no_privilege() -> None:
    """The program runs as a numbered user that is not root, and the services give it no capability."""
    *_, user = arguments("USER")
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", user)
    for name in PROGRAMS:
        service = COMPOSE["services"][name]
        assert service["cap_drop"] == ["ALL"]
        assert service["read_only"] is True
        assert "user" not in service


def test_the_image_runs_etl_from_the_wheel_with_the_pinned_versions() -> None:
    """Every package of the image is pinned; the last stage copies the installed packages."""
    commands = [argument for instruction, argument in steps_of_image() if instruction == "RUN"]
    installs = [text for command in commands for text in command.split("&&") if "pip install" in text]
    assert len(installs) == 2
    assert all("-c constraints.txt" in text for text in installs)
    assert installs[-1].strip().endswith('"$(echo /dist/*.whl)[serve,collect]"')
    assert not [text for command in commands for text in shlex.split(command) if "pip" in text and "://" in text]
    assert arguments("ENTRYPOINT") == ['["etl"]']
    assert all(argument.startswith("--from=build ") for argument in arguments("COPY"))


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    """Each file that the build copies exists and is not ignored, and all files that the wheel needs are copied."""
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}
    copied = {
        path.rstrip("/")
        for instruction, argument in steps_of_image()
        if instruction == "COPY" and not argument.startswith("--from")
        for path in argument.split()[:-1]
    }
    assert [path for path in copied if not (ROOT / path).exists()] == []
    assert copied == let_through
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]
    assert {path.lstrip("/") for path in build["sdist"]["include"]} | {"pyproject.toml"} == copied


def test_secrets_and_data_stay_out_of_the_image() -> None:
    """The build gets only the listed files: no settings, no database, no failed store, no history."""
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    named = [line[1:] for line in lines if line.startswith("!")]
    for path in (".env", ".git", ".etl", "failed", "input", "tests"):
        assert not [pattern for pattern in named if fnmatch.fnmatch(path, pattern)], path


def test_ci_runs_what_a_person_runs_on_each_python() -> None:
    """The workflow calls .ci/run, which calls `make test`, with every Python that the package names."""
    job = WORKFLOW["jobs"]["test"]
    assert job["steps"][-1] == {"run": ".ci/run"}
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text()
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    pythons = [text.split()[-1] for text in classifiers if re.search(r":: 3\.\d+$", text)]
    assert job["strategy"]["matrix"]["python"] == pythons


def test_ci_shows_the_coverage_in_its_summary() -> None:
    """A job of the workflow runs `make coverage` and writes the table of the rooms, also when a room fails."""
    *_, measured, shown = WORKFLOW["jobs"]["coverage"]["steps"]
    assert measured == {"run": "make coverage"}
    assert shown["if"] == "${{ !cancelled() }}"
    assert re.fullmatch(r'\S+ -m scripts\.coverage_by_room >> "\$GITHUB_STEP_SUMMARY"', shown["run"])
