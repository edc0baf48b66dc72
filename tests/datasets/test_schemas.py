"""The JSON Schemas for editors: they take what the reader takes, and refuse what a schema can see."""

import json
import re
import subprocess
import tomllib
from pathlib import Path

import jsonschema
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etl.datasets import TYPES, read, schemas
from etl.datasets.types import ALIASES
from etl.errors import DefinitionError
from etl.settings import read_file_settings
from scripts import schemas as making
from tests.datasets.test_definitions import PARCELS, WRONG
from tests.support.checkout import ROOT
from tests.support.environments import made
from tests.support.site import Site

DEFINITION = jsonschema.Draft7Validator(json.loads(schemas.text("definition")))
SETTINGS = jsonschema.Draft7Validator(json.loads(schemas.text("etl.toml")))

# The reader compares these with another part of the file, or reads the text as a path, a format or a pattern.
BEYOND_A_SCHEMA = {
    "another name",
    "key without a column",
    "key may be null",
    "key is jsonb",
    "child without the key",
    "child with another key",
    "newest_by no column",
    "newest_by is jsonb",
    "keep_first of the key",
    "keep_first of the order",
    "two tables with one name",
    "later table without each",
    "where of no path",
    "where beyond the record",
    "each without a name",
    "index without a column",
    "path without a name",
    "position outside each",
    "enclosing outside each",
    'type = "timestamptz", timezone = "Europe/Berln"',
    'type = "date", formats = ["%Y-%m-%e"]',
    'type = "date", formats = ["%d.%m."]',
    'type = "date", formats = ["%m/%Y"]',
    'type = "timestamp", formats = ["%Y-%m-%d %z"]',
    'type = "timestamptz", formats = ["%d.%m.%Y"]',
    'type = "time", formats = ["%M:%S"]',
    'type = "time", formats = ["%H:%M %z"]',
    'type = "time", min = "22:00", max = "06:00"',
    'type = "time", above = "24:00", max = "24:00:00"',
    "quote without its end",
    "no JSON in quotes",
    "match is none",
    "match of two",
    "enclosing of nothing",
    "enclosing twice",
    "bounds that exclude each other",
    "misfits to no column",
    "misfits to a number",
    "misfits to itself",
    "misfits of two",
    "NUL in a value",
    "bound is infinite",
}


@pytest.fixture
def alone(tmp_path: Path) -> Site:
    """Give a folder for commands that need no database."""
    return Site("postgresql://nobody@127.0.0.1:1/nowhere", tmp_path)


def faults(text: str) -> list[str]:
    """Return what the schema of definitions refuses in a text."""
    return [f"{error.json_path}: {error.message}" for error in DEFINITION.iter_errors(tomllib.loads(text))]


def is_read(text: str, folder: Path) -> bool:
    """Return whether the reader takes a definition."""
    path = folder / f"{tomllib.loads(text).get('name', 'none')}.toml"
    path.write_text(text, encoding="utf-8")
    try:
        read(path)
    except DefinitionError:
        return False
    return True


def test_the_schemas_are_those_of_the_program() -> None:
    """The files are what the options and types of today give, and are schemas of draft 7."""
    assert {name: (ROOT / making.FOLDER / name).read_text(encoding="utf-8") for name in making.texts()} == (
        making.texts()
    )
    for validator in (DEFINITION, SETTINGS):
        validator.check_schema(validator.schema)


def test_every_definition_is_taken(tmp_path: Path) -> None:
    """Each definition that is shipped, shown by a page or used by a test, and that the reader takes, is taken."""
    shipped = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "config" / "datasets").rglob("*.toml"))]
    pages = [
        block
        for path in sorted((ROOT / "docs").rglob("*.md"))
        for block in re.findall(r"```toml\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)
    ]
    tests = [
        block
        for path in sorted((ROOT / "tests").rglob("*.py"))
        for block in re.findall(r'"""\\?\n(name = .*?)"""', path.read_text(encoding="utf-8"), re.DOTALL)
    ]
    taken = 0
    for text in [*shipped, *pages, *tests]:
        try:
            tomllib.loads(text)
        except tomllib.TOMLDecodeError:  # a template
            continue
        if is_read(text, tmp_path):
            taken += 1
            assert faults(text) == [], text
    assert taken > len(shipped) + 50


def test_wrong_definitions_are_refused() -> None:
    """Each wrong definition of the tests is refused, but for faults that no schema can express."""
    accepted = {name for name, text, _ in WRONG if not _is_refused(text)}
    assert accepted == BEYOND_A_SCHEMA


def _is_refused(text: str) -> bool:
    try:
        return bool(faults(text))
    except tomllib.TOMLDecodeError:
        return True


# fmt: off
_VALUES = {
    "required": "true", "trim": "true", "exact": "true", "keep_first": "true", "json": "true",
    "null_if": '["", false, []]',
    "default": '"1"', "min": "1", "above": '"0.5"', "max": "9", "max_length": "5", "one_of": '["1"]', "decimal": '","',
    "timezone": '"UTC"', "formats": '["%Y-%m-%d %H:%M %z"]', "unwrap": '"mongo"', "true": '["ja", 1]', "false": "[0]",
    "misfits_to": '"note"', "path": '"a.b"', "value": '"x"', "comment": '"it"',
}
_KINDS = sorted({*TYPES, *ALIASES, "VARCHAR", "Double  Precision", "inet", "uuid[]", "numeric(12, 2)",
    "geometry(Point,4326)", "timestamp (3) with time zone", "interval day to second (2)", "public.mood", '"My Type"'})
# fmt: on


@given(kind=st.sampled_from(_KINDS), options=st.sets(st.sampled_from(sorted(_VALUES)), max_size=3))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_column_that_the_reader_takes_is_taken(tmp_path: Path, kind: str, options: set[str]) -> None:
    """No combination of a type and options is refused that the reader takes."""
    written = "".join(f", {name} = {_VALUES[name]}" for name in sorted(options))
    text = PARCELS.replace('carrier = "text"', f"carrier = {{ type = '{kind}'{written} }}").replace(
        '"note"', '"remark"'
    )
    text = text.replace("note =", 'remark = "text"\nnote =').replace("'remark'", "'note'")
    if is_read(text, tmp_path):
        assert faults(text) == []


@pytest.mark.parametrize(
    "text",
    ["batch_row = 5", "batch_rows = 0", 'batch_rows = "5"', "[load]\ndatabase = 'embedded:'", "[serve]\nport = 70000",
     "log_level = 'loud'", "[receive]\nport = 1", "[load]\nforce = true"],
)  # fmt: skip
def test_wrong_settings_are_refused(text: str) -> None:
    """A key that etl.toml does not have, and a value that its option does not take, are refused."""
    assert list(SETTINGS.iter_errors(tomllib.loads(text)))


def test_settings_are_taken(tmp_path: Path) -> None:
    """The shipped etl.toml is taken, also with each key that it shows as a comment."""
    shown = (ROOT / "config" / "etl.toml").read_text(encoding="utf-8")
    for text in (shown, re.sub(r"^# (\w+ = )", r"\1", shown, flags=re.MULTILINE)):
        (tmp_path / "etl.toml").write_text(text, encoding="utf-8")
        read_file_settings(tmp_path)
        assert list(SETTINGS.iter_errors(tomllib.loads(text))) == []


def test_an_editor_finds_the_schemas(alone: Site) -> None:
    """The first line of the files of `init` and `infer` leads to the schema of this version, wherever the folder is."""
    (alone.folder / "boxes.ndjson").write_text('{"box_id": "B-1"}\n{"box_id": "B-2"}\n')
    assert alone.run("--config-dir", "own", "init").returncode == 0
    output = alone.folder / "own" / "datasets" / "boxes.toml"
    infer = ["--config-dir", "own", "--log-level", "error", "dataset", "infer", "boxes.ndjson"]
    assert alone.run(*infer, "--output", str(output)).returncode == 0
    assert alone.run(*infer).stdout.splitlines()[0] == output.read_text().splitlines()[0]
    for path, of in ((output, "definition"), (alone.folder / "own" / "etl.toml", "etl.toml")):
        found = re.match(r"#:schema (\S+)\n", path.read_text(encoding="utf-8"))
        assert found
        (path.parent / found[1]).write_text("{}")
        assert alone.run("--config-dir", "own", "dataset", "schema", "--write").stdout.startswith("wrote own/schemas/")
        printed = alone.run("dataset", "schema", "--of", of).stdout
        assert (path.parent / found[1]).read_text(encoding="utf-8") == printed
        assert json.loads(printed)["$schema"] == making.DRAFT


@pytest.mark.slow
def test_taplo_reads_the_schemas(alone: Site, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The language server that editors use finds the schemas, takes every shipped definition, and marks faults."""
    taplo = str(made(tmp_path_factory, "taplo", "taplo") / "taplo")
    assert alone.run("init").returncode == 0
    folder = alone.folder / "config" / "datasets"
    for path in (ROOT / "config" / "datasets").rglob("*.toml"):
        (folder / path.name).write_text("#:schema ../schemas/dataset.json\n" + path.read_text(encoding="utf-8"))
    files = [alone.folder / "config" / "etl.toml", *folder.iterdir()]
    done = subprocess.run([taplo, "lint", *files], cwd=alone.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    files[0].write_text(files[0].read_text(encoding="utf-8").replace("[load]", "[load]\nretry_attempts = 0"))
    done = subprocess.run([taplo, "lint", *files], cwd=alone.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "0 is less than the minimum of 1" in done.stderr
