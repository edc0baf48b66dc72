"""A first configuration folder: a commented etl.toml, one dataset to begin with, and the schemas for editors."""

from pathlib import Path

from etl import datasets
from etl.datasets import schemas
from etl.errors import UsageError, cannot_write
from etl.settings import shipped

_DATASET = """\
{schema}
# What one record of the source is, and which table it becomes. The whole grammar: docs/reference/dataset-definitions.md
# Try it without a database:  etl dataset check {name} FILE

name = "{name}"
records = "item"                # the elements of one array, or a record a line; else a path such as "shipments.item"
mode = "merge"                  # append: add rows | merge: the newest version of each key | replace: the file is all
key = ["parcel_id"]             # merge: what identifies a record
newest_by = "updated_at"        # merge: of two versions the larger is kept

[[table]]
name = "logistics.{name}"
comment = "One row per parcel"
index = [["updated_at"]]
[table.columns]
parcel_id = {{ type = "text", required = true, comment = "Identifies the parcel" }}
city = {{ path = "destination.city", type = "text", max_length = 100, comment = "Where it goes" }}
weight_kg = {{ type = "numeric", min = 0, comment = "Weight in kilograms" }}
updated_at = {{ type = "timestamptz", required = true, comment = "When the record was last changed" }}
"""

_SAMPLE = """\
{"parcel_id": "P-1", "destination": {"city": "Santos"}, "weight_kg": 12.5, "updated_at": "2026-11-21T08:15:00Z"}
{"parcel_id": "P-2", "destination": {"city": "Hamburg"}, "weight_kg": 0.8, "updated_at": "2026-11-21T08:16:00Z"}
"""


def write(folder: Path, name: str) -> tuple[Path, ...]:
    """Write a definition called `name`, a sample of its records, and etl.toml if it is missing; return the files.

    The schemas by which editors check both kinds of files are among them, and replace those of an older version.

    Raises UsageError when the definition or the sample exists already, or the folder cannot be written.
    """
    if not name.isidentifier() or not name.isascii() or name != name.lower():
        raise UsageError(f"expected a name of lower-case letters, digits and _, got {name!r}")
    if name in datasets.names(folder):
        raise UsageError(f"a dataset called {name} exists already", hint="--dataset NAME names another")
    definition = folder / "datasets" / f"{name}.toml"
    contents = {
        definition: _DATASET.format(name=name, schema=schemas.line("definition", folder, definition.parent)),
        folder / "samples" / f"{name}.ndjson": _SAMPLE,
    }
    settings = folder / "etl.toml"
    if not settings.exists():
        text = (shipped("config") / "etl.toml").read_text(encoding="utf-8")
        contents = {settings: f"{schemas.line('etl.toml', folder, folder)}\n{text}", **contents}
    existing = next((path for path in contents if path.exists()), None)
    if existing is not None:
        raise UsageError(
            f"{existing} exists already", hint="nothing was written; --config-dir DIR names another folder"
        )
    try:
        for path, text in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
    except OSError as error:
        raise cannot_write(str(folder), error) from error
    return (*schemas.write(folder), *contents)
