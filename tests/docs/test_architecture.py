"""The architecture page agrees with the code: its paths, its listing of rooms, its table of changes, its climbs."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

from tests.support.checkout import ROOT

PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
INGESTION = ROOT / "etl" / "ingestion"

# Changes that a newcomer may be asked to make: the beginnings of the first column of "Where to add what".
CHANGES = (
    "a column type",
    "a compression",
    "a protocol",
    "a retry policy",
    "a CSV reader",
    "an exit code",
    "an executor",
    "a bucket kind",
    "an address of the API",
    "a second `newest_by` column",
    "a hook for each record",
    "a failed store elsewhere",
)

# Modules of the listing that all rooms may import.
GROUND = {"etl.ingestion.values", "etl.ingestion.constants"}


def section(heading: str) -> str:
    """Return the text below a heading of the page."""
    return PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]


def between(name: str) -> str:
    """Return the text between the markers of this name."""
    return PAGE.partition(f"<!-- {name} -->\n")[2].partition(f"<!-- end: {name} -->")[0]


def paths(text: str) -> Iterator[str]:
    """Yield the paths in backticks, except those with a placeholder in capitals, such as NAME.sql."""
    for word in re.findall(r"`([\w.-]+(?:/[\w.-]+)*/?)`", text):
        is_path = "/" in word or re.search(r"\.(md|py|sql|toml)$", word)
        if is_path and not re.search(r"\b[A-Z]+\.sql$", word):
            yield word


def rooms() -> dict[str, Path]:
    """Return the folders and modules of the listing by their dotted names, in its order."""
    listed = {}
    for indent, name in re.findall(r"^( {2,4})(\S+)", between("rooms"), re.MULTILINE):
        folder = INGESTION if len(indent) == 4 else ROOT / "etl"
        path = folder / name
        listed[".".join(path.relative_to(ROOT).with_suffix("").parts)] = path
    return listed


def layers() -> dict[str, int]:
    """Return the layer of each room, 0 the highest, from the contract of all rooms."""
    document = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    [contract] = [each for each in document["tool"]["importlinter"]["contracts"] if each.get("containers") == ["etl"]]
    return {room.strip(): number for number, layer in enumerate(contract["layers"]) for room in layer.split("|")}


def test_each_path_exists() -> None:
    """A path with a folder exists from the top of the project; a file name alone is that of some file."""
    named = set(paths(PAGE))
    assert len(named) > 150
    names = {path.name for folder in ("etl", "config") for path in (ROOT / folder).rglob("*")}
    names |= {path.name for path in ROOT.iterdir()}
    assert [path for path in sorted(named) if not (path in names or ("/" in path and (ROOT / path).exists()))] == []


def test_each_change_names_what_to_touch() -> None:
    """Each of the twelve changes has a row, and the row names the files or folders to touch."""
    rows = re.findall(r"^\| (.+?) \| (.+) \|$", section("Where to add what"), re.MULTILINE)
    for change in CHANGES:
        [touched] = [touch for name, touch in rows if name.startswith(change)]
        assert list(paths(touched)), change


def test_the_listing_is_that_of_the_folders() -> None:
    """The listing has every folder and module of etl/ and of etl/ingestion/, and no others."""
    found = {
        path
        for folder in (ROOT / "etl", INGESTION)
        for path in folder.iterdir()
        if path.name not in {"__init__.py", "__pycache__"} and (path.is_dir() or path.suffix == ".py")
    }
    assert set(rooms().values()) == found


def test_the_picture_names_the_rooms_of_the_ingestion() -> None:
    """Each folder of etl/ingestion/ is a room of the picture at the head of the page."""
    picture = re.findall(r"[a-z_]+(?=/)", PAGE.partition("```text\n")[2].partition("```")[0])
    folders = {path.name for path in INGESTION.iterdir() if path.is_dir() and path.name != "__pycache__"}
    assert [name for name in sorted(folders) if name not in picture] == []


def imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, also within functions."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_rooms_import_what_is_below_them_in_the_listing() -> None:
    """No room or module imports one above it in the listing, as the page says."""
    order = [name for name in rooms() if name != "etl.ingestion"]

    def place(name: str) -> int | None:
        return next((number for number, room in enumerate(order) if f"{name}.".startswith(f"{room}.")), None)

    upward = []
    for path in (ROOT / "etl").rglob("*.py"):
        own = place(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name in imports(path) if own is not None else ():
            other = place(name)
            if other is not None and own is not None and other < own and order[other] not in GROUND:
                upward.append((order[own], order[other]))
    assert upward == []


def climbs() -> list[tuple[str, str, str, str]]:
    """Return the lower room, the upper room, the function or class at which a climb begins, and its file."""
    text = re.sub(r"\n +", " ", between("climbs"))
    return re.findall(r"^- `([a-z_.]+)` -> `([a-z_.]+)`: .*? Begins at `([\w.]+)` in `([\w./]+)`", text, re.MULTILINE)


def test_each_climb_leads_upwards() -> None:
    """Each line of the list leads from a lower layer to an upper one, and is complete."""
    of = layers()
    assert len(climbs()) == between("climbs").count("\n- ")
    assert [(lower, upper) for lower, upper, *_ in climbs() if of[upper] >= of[lower]] == []


def test_each_climb_begins_where_the_page_says() -> None:
    """The function or class at which a climb begins is defined in the file that the page names."""
    for _, _, name, path in climbs():
        assert name in set(defined(ROOT / path)), f"{name} in {path}"


def defined(path: Path) -> Iterator[str]:
    """Yield the functions and classes of a module, and the methods of its classes as CLASS.METHOD."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.ClassDef):
            yield from (f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef))
