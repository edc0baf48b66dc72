"""The JSON Schemas of definitions and of `etl.toml`, and the line by which an editor finds them.

`scripts/schemas.py` makes them. An editor reads the line `#:schema PATH` relative to the file that holds it, so a copy
in the configuration folder works without a network, and moves with that folder.
"""

import os
from pathlib import Path
from typing import Literal

from etl.errors import cannot_write
from etl.settings import shipped

SchemaOf = Literal["definition", "etl.toml"]

FILES: dict[SchemaOf, str] = {"definition": "dataset.json", "etl.toml": "etl.json"}
"""The name of the file with each schema, in the folder `schemas`."""


def text(of: SchemaOf) -> str:
    """Return a schema as this installation has it."""
    return (shipped("config") / "schemas" / FILES[of]).read_text(encoding="utf-8")


def line(of: SchemaOf, config_dir: Path, folder: Path) -> str:
    """Return the first line of a file in this folder: it names the schema in the configuration folder."""
    path = Path(os.path.relpath(config_dir / "schemas" / FILES[of], folder)).as_posix()
    return f"#:schema {path if path.startswith('../') else f'./{path}'}"


def write(config_dir: Path) -> tuple[Path, ...]:
    """Write both schemas into the configuration folder, over those of another version; return the files that changed.

    Raises UsageError.
    """
    folder = config_dir / "schemas"
    changed = []
    try:
        for of, name in FILES.items():
            path, new = folder / name, text(of)
            if not path.exists() or path.read_text(encoding="utf-8") != new:
                folder.mkdir(parents=True, exist_ok=True)
                path.write_text(new, encoding="utf-8")
                changed.append(path)
    except OSError as error:
        raise cannot_write(str(folder), error) from error
    return tuple(changed)
