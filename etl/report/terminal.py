"""A report on the terminal, with as many columns as fit. Prints nothing itself."""

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from etl.report import display

_GAP = 2


def draw(columns: Sequence[str], rows: Sequence[Sequence[Any]], width: int | None) -> tuple[Table, list[str]]:
    """Return the rows as a table, and the columns that do not fit in `width` characters.

    Columns keep their order. Names break after underscores, so that they are seldom wider than the values.
    """
    cells = display.by_column(rows, len(columns))
    right = display.numeric_columns(rows, len(columns))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, _GAP // 2))
    shown, used = list[int](), 0
    for place, name in enumerate(columns):
        widest = max([cell_len(text) for text in cells[place]], default=0)
        header = _broken(name, max(widest, *map(len, name.split("_"))) + 1)
        needed = max([widest, *map(len, header.split("\n"))]) + _GAP + 1
        if width is not None and used + needed > width and shown:
            break
        shown.append(place)
        used += needed
        table.add_column(Text(header), justify="right" if right[place] else "left", vertical="top", no_wrap=True)
    for number in range(len(rows)):
        table.add_row(*(Text(cells[place][number]) for place in shown))
    return table, list(columns[len(shown) :])


def _broken(name: str, width: int) -> str:
    """Break the name of a column after underscores into lines of at most `width` characters.

    `width` is at least the length of its longest word.
    """
    lines = [""]
    parts = name.split("_")
    for place, part in enumerate(parts):
        word = part if place == len(parts) - 1 else part + "_"
        if lines[-1] and len(lines[-1]) + len(word) > width:
            lines.append("")
        lines[-1] += word
    return "\n".join(lines)
