"""Tables for people: as wide as the terminal; into a pipe or a file without a limit.

A column has a rank and a kind. Where a terminal is too narrow, first texts wrap between words and paths lose their
middle. Then the columns with the highest ranks are left out, and a line below names them. Where not even the columns of
rank 0 fit, each record has lines of its own, one for each column. Ids, names, numbers and times are never broken.
"""

import codecs
import datetime as dt
import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, TextIO

import click
from rich.cells import cell_len

from etl.database.inventory import Made
from etl.quick_dataclasses import dataclass
from etl.standard_streams import one_line, styled

Kind = Literal["whole", "text", "path"]

_LEAST_TERMINAL = 20
"""Columns: a terminal that says it is narrower is not one that a person reads."""
_LEAST = {"text": 16, "path": 24}
"""Columns: a text or a path that is longer than this stays at least so wide."""
_EASY = 28
"""Columns: a text that is narrower is read with effort, so no column of a higher rank takes its room."""
_GAP_OF_WIDE, _GAP = 3, 2
_EVERYTHING = "--json, or in a pipe"


@dataclass(frozen=True)
class Column:
    """A column of a table. Rank 0 is never left out, and the highest rank is left out first."""

    name: str
    rank: int = 0
    kind: Kind = "whole"


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The lines of a table, and the columns that are left out or shortened."""

    lines: list[str]
    left_out: tuple[str, ...] = ()
    shortened: tuple[str, ...] = ()


def print_table(
    title: str, columns: Sequence[Column], rows: Iterable[Sequence[object]], *, everything: str = _EVERYTHING
) -> None:
    """Print a table on stdout. `everything` says how to see what a narrow terminal has no room for."""
    rows = list(rows)
    print_cells(
        title, columns, [list(map(_cell, row)) for row in rows], numeric_columns(rows, len(columns)), everything
    )


def print_cells(
    title: str, columns: Sequence[Column], cells: Sequence[Sequence[str]], right: Sequence[bool], everything: str
) -> None:
    """Print a table whose values are texts already, without control characters; `right` is for columns of numbers."""
    stream = sys.stdout
    encoding = codecs.lookup(stream.encoding or "utf-8").name
    if encoding != "utf-8":  # A character that the stream escapes has another width.
        cells = [[text.encode(encoding, "backslashreplace").decode(encoding) for text in row] for row in cells]
    width = width_of(stream)
    table = layout(columns, cells, right, width)
    lines = [*wrapped(one_line(title), width), "", *table.lines]
    notes = [f"no room for {', '.join(table.left_out)}"] if table.left_out else []
    notes += [f"shortened: {', '.join(table.shortened)}"] if table.shortened else []
    if notes:
        lines += wrapped(f"({'; '.join(notes)}; in full with {everything})", width)
    lines.append("")
    text = "\n".join(lines)
    if encoding != "utf-8":
        text = text.replace("─", "-").replace("…", "~")
    click.echo(text, file=styled(stream))


def print_made(made: Made) -> None:
    """Print what was made in a database, in a line for each kind."""
    for kind, names in vars(made).items():
        if names:
            for line in wrapped(one_line(f"made the {kind}: {', '.join(names)}"), width_of(sys.stdout)):
                click.echo(line)


def width_of(stream: TextIO) -> int | None:
    """Return the columns of a terminal, None for anything else."""
    if not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    try:
        width = int(given) if given.isdecimal() and int(given) else os.get_terminal_size(stream.fileno()).columns
    except OSError:
        width = 0
    return max(width or 80, _LEAST_TERMINAL)


def layout(
    columns: Sequence[Column], cells: Sequence[Sequence[str]], right: Sequence[bool], width: int | None
) -> Layout:
    """Return the table that fits in `width` columns of a terminal; None: without a limit."""
    places = range(len(columns))
    most = [_widest([columns[place].name, *(row[place] for row in cells)]) for place in places]
    if width is None or _total(most, _GAP_OF_WIDE) <= width:
        return Layout(lines=_table(columns, cells, right, dict(enumerate(most)), _GAP_OF_WIDE))
    least = [_least(columns[place], [row[place] for row in cells]) for place in places]
    shown = [place for place in places if not columns[place].rank]
    if _total([least[place] for place in shown], _GAP) > width:
        return _records(columns, cells, width)
    easy = [
        max(least[place], min(most[place], _EASY)) if columns[place].kind == "text" else least[place]
        for place in places
    ]
    for place in sorted(set(places) - set(shown), key=lambda place: columns[place].rank):
        if _total([easy[each] for each in (*shown, place)], _GAP) <= width:
            shown.append(place)
    widths = {place: least[place] for place in sorted(shown)}
    spare = width - _total(list(widths.values()), _GAP)
    while spare and (growing := [place for place in widths if widths[place] < most[place]]):
        # Texts and paths first, the narrowest of them; a column of the other kind only has a broken heading.
        widths[min(growing, key=lambda place: (columns[place].kind == "whole", widths[place]))] += 1
        spare -= 1
    return Layout(
        lines=_table(columns, cells, right, widths, _GAP),
        left_out=tuple(columns[place].name for place in places if place not in widths),
        shortened=tuple(
            columns[place].name
            for place, given in widths.items()
            if columns[place].kind == "path" and _widest([row[place] for row in cells]) > given
        ),
    )


def shortened(text: str, width: int) -> str:
    """Return a text with at most this width: its middle is left out, and its end keeps most, the name of a file."""
    if cell_len(text) <= width:
        return text
    head = _beginning(text, (width - 1) // 3)
    tail = _beginning(text[::-1], width - 1 - cell_len(head))[::-1]
    return f"{head}…{tail}"


def wrapped(text: str, width: int | None) -> list[str]:
    """Return a text as lines that break between words; a word is broken only where it is wider than a line."""
    if width is None or cell_len(text) <= width:
        return [text]
    lines = [""]
    for word in text.split(" "):
        if lines[-1] and cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
            continue
        *whole, rest = _folded(word, width)
        lines[-1:] = [*filter(None, lines[-1:]), *whole, rest]
    return lines


def numeric_columns(rows: Sequence[Sequence[object]], count_columns: int) -> list[bool]:
    """Return for each column whether it holds numbers only, or whether something is so."""
    values = [[row[place] for row in rows if row[place] is not None] for place in range(count_columns)]
    return [bool(column) and all(isinstance(value, int | float) for value in column) for column in values]


def _records(columns: Sequence[Column], cells: Sequence[Sequence[str]], width: int) -> Layout:
    """Return one record under the other, as psql does for expanded tables."""
    label = _widest([column.name for column in columns])
    room = max(width - label - 3, 8)
    lines, cut = list[str](), set[str]()
    for number, row in enumerate(cells, 1):
        lines.append(f"-[ {number} ]".ljust(min(width, label + 30), "-"))
        for column, text in zip(columns, row, strict=True):
            values = [text]
            if column.kind == "text":
                values = wrapped(text, room)
            elif column.kind == "path":
                values = [shortened(text, room)]
                cut |= {column.name} if values != [text] else set()
            elif cell_len(text) > room:  # It is never broken: alone in a line it has the most room.
                lines.append(f"{_filled(column.name, label)} |")
                lines.append(text)
                continue
            for place, value in enumerate(values):
                lines.append(f"{_filled('' if place else column.name, label)} | {value}".rstrip())
    return Layout(lines=lines, shortened=tuple(column.name for column in columns if column.name in cut))


def _table(
    columns: Sequence[Column],
    cells: Sequence[Sequence[str]],
    right: Sequence[bool],
    widths: dict[int, int],
    gap: int,
) -> list[str]:
    heads = [_broken(columns[place].name, given) for place, given in widths.items()]
    lines = list(_drawn(heads, widths, right, gap))
    lines.append(f" {'─' * (_total(list(widths.values()), gap) - 1)}")
    for row in cells:
        values = [_lines_of(columns[place].kind, row[place], given) for place, given in widths.items()]
        lines += _drawn(values, widths, right, gap)
    return lines


def _drawn(values: Sequence[Sequence[str]], widths: dict[int, int], right: Sequence[bool], gap: int) -> Iterator[str]:
    """Yield the lines of one row, whose values may have several lines each."""
    for number in range(max(map(len, values))):
        texts = [
            _filled(lines[number] if number < len(lines) else "", given, is_right=right[place])
            for lines, (place, given) in zip(values, widths.items(), strict=True)
        ]
        yield f" {(' ' * gap).join(texts)}".rstrip()


def _lines_of(kind: Kind, text: str, width: int) -> list[str]:
    if kind == "text":
        return wrapped(text, width)
    return [shortened(text, width) if kind == "path" else text]


def _least(column: Column, texts: Sequence[str]) -> int:
    """Return the least width of a column in which nothing is broken that must not be."""
    head = _widest([word.rstrip() for word in _words(column.name)])
    widest = _widest(texts)
    if column.kind == "whole":
        return max(head, widest)
    longest_word = _widest([word for text in texts for word in text.split(" ")]) if column.kind == "text" else 0
    return max(head, longest_word, min(widest, _LEAST[column.kind]))


def _words(name: str) -> list[str]:
    """Return the parts of a column's name between which it may be broken: after a space or an underscore."""
    return re.findall(r"[^ _]*(?:_+| |$)", name)


def _broken(name: str, width: int) -> list[str]:
    lines = [""]
    for word in _words(name):
        if lines[-1] and cell_len((lines[-1] + word).rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line.rstrip() for line in lines]


def _folded(word: str, width: int) -> list[str]:
    parts = []
    while cell_len(word) > width:
        part = _beginning(word, width) or word[0]
        parts.append(part)
        word = word[len(part) :]
    return [*parts, word]


def _beginning(text: str, width: int) -> str:
    """Return the longest beginning of a text that is at most so wide."""
    end = min(len(text), width)
    while cell_len(text[:end]) > width:
        end -= 1
    return text[:end]


def _filled(text: str, width: int, *, is_right: bool = False) -> str:
    spaces = " " * (width - cell_len(text))
    return spaces + text if is_right else text + spaces


def _widest(texts: Iterable[str]) -> int:
    return max(map(cell_len, texts), default=0)


def _total(widths: Sequence[int], gap: int) -> int:
    return 1 + sum(widths) + gap * (len(widths) - 1)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.1f}"
    if isinstance(value, dt.datetime):
        return value.strftime("%Y-%m-%d %H:%M:%S")
    return one_line(str(value))
