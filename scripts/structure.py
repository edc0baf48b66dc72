#!/usr/bin/env python3
"""Measure the structure of the code: rooms, layers, sizes, and what is written twice.

    python -m scripts.structure [FOLDER]

FOLDER is a checkout, this one by default, so that two versions can be compared.
"""

import ast
import sys
import tomllib
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

_LONG_FUNCTION = 40
_DUPLICATE_LINES = 6
_ROOM_PARTS = 3
"""Rooms are folders of `etl/`, and of `etl/ingestion/` one level more."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def main() -> None:
    """Print one line for each measure."""
    root = Path(sys.argv[1] if len(sys.argv) > 1 else ".").resolve()
    for name, value in measures(root).items():
        sys.stdout.write(f"{name:34} {value}\n")


def measures(root: Path) -> dict[str, str]:
    """Return each measure of a checkout by its name."""
    texts = {path.relative_to(root): path.read_text(encoding="utf-8") for path in sorted((root / "etl").rglob("*.py"))}
    lines: Counter[str] = Counter()
    modules: Counter[str] = Counter()
    for path, text in texts.items():
        lines[_room(path)] += text.count("\n")
        modules[_room(path)] += 1
    total = lines.total()
    biggest, size = lines.most_common(1)[0]
    nodes = [(path, node) for path, text in texts.items() for node in ast.walk(ast.parse(text))]
    functions = [
        (node.end_lineno - node.lineno + 1, _parameters(node), f"{path}:{node.name}")
        for path, node in nodes
        if isinstance(node, Function) and node.end_lineno
    ]
    longest, parameters, name = max(functions)
    any_count = sum(isinstance(node, ast.Name) and node.id == "Any" for _, node in nodes)
    contracts, layers = _contracts(root / "pyproject.toml")
    return {
        "lines of etl/": f"{total:,}",
        "biggest room": f"{biggest}, {100 * size / total:.1f} % of the lines, {modules[biggest]} modules",
        "rooms": f"{len(lines)}",
        "layers of all contracts": f"{layers}",
        "lines of the contracts": f"{contracts}",
        f"functions over {_LONG_FUNCTION} lines": f"{sum(size > _LONG_FUNCTION for size, _, _ in functions)}",
        "largest function": f"{longest} lines, {parameters} parameters: {name}",
        "most parameters": "{1}: {2}".format(*max(functions, key=lambda each: each[1])),
        "Any per 1,000 lines": f"{1000 * any_count / total:.2f}",
        f"duplicates of {_DUPLICATE_LINES} or more lines": f"{_duplicates(texts)}",
    }


def _room(path: Path) -> str:
    parts = path.parts[: _ROOM_PARTS if path.parts[1] == "ingestion" else 2]
    return "/".join(part for part in parts if not part.endswith(".py"))


def _parameters(function: Function) -> int:
    arguments = function.args
    return len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs)


def _contracts(path: Path) -> tuple[int, int]:
    """Return the lines of import-linter's contracts, and the number of layers in them."""
    text = path.read_text(encoding="utf-8")
    contracts = tomllib.loads(text)["tool"]["importlinter"]["contracts"]
    begin = text.index("[tool.importlinter]")
    end = text.find("\n[tool.mypy]", begin)
    return text.count("\n", begin, end), sum(len(contract.get("layers", ())) for contract in contracts)


def _duplicates(texts: dict[Path, str]) -> int:
    """Count the places at which lines begin that are written elsewhere, too; imports and short lines do not count."""
    places: defaultdict[tuple[str, ...], set[tuple[Path, int]]] = defaultdict(set)
    for path, text in texts.items():
        kept = list(_telling_lines(text))
        for at in range(len(kept) - _DUPLICATE_LINES + 1):
            window = kept[at : at + _DUPLICATE_LINES]
            places[tuple(line for _, line in window)].add((path, window[0][0]))
    return sum(len(found) - 1 for found in places.values() if len(found) > 1)


def _telling_lines(text: str) -> Iterator[tuple[int, str]]:
    """Yield number and text of the lines that are no blank, no comment, no import and no lone bracket."""
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if len(stripped) > 2 and not stripped.startswith(("#", "import ", "from ")):
            yield number, stripped


if __name__ == "__main__":
    main()
