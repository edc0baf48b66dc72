"""How a definition spells where a value stands. Pure: knows the spelling, and no record.

A path is names joined by dots. A name in quotes is read as JSON reads it, and so may hold dots; a number is also the
position in an array, from 0. `.` is the whole object, `#` its position in its array, `@` the key of its record in an
object of records, and each `^` in front leads to the object around it.
"""

import json
import re
from typing import Literal, NamedTuple

Step = str | int

_SEGMENT = re.compile(r'"(?:[^"\\]|\\.)*"|[^".][^.]*')
_POSITION = re.compile(r"0|[1-9][0-9]{0,8}")
_SIGNS = frozenset({"^", "#", "@"})


class ValuePath(NamedTuple):
    """A path, read: `up` objects outwards, then these steps, or what the sign stands for ("." the whole)."""

    up: int
    steps: tuple[Step, ...]
    sign: Literal["", ".", "#", "@"] = ""

    @property
    def member(self) -> str | None:
        """The name of the item's own member that is meant, or None."""
        if self.up or len(self.steps) != 1 or isinstance(self.steps[0], int):
            return None
        return self.steps[0]


def parse(text: str) -> ValuePath:
    """Read the path of a value.

    Raises ValueError with a sentence.
    """
    up, rest = 0, text
    while rest == "^" or rest.startswith("^."):
        up, rest = up + 1, rest[2:]
        if not rest and not text.endswith("."):
            return ValuePath(up, (), ".")
    if rest in {".", "#", "@"} and not (up and rest != "#"):
        return ValuePath(up, (), rest)  # type: ignore[arg-type] # one of its signs
    return ValuePath(up, steps(rest, text))


def steps(text: str, whole: str = "") -> tuple[Step, ...]:
    """Read the path of a member below an object; `whole` is what an error quotes.

    Raises ValueError with a sentence.
    """
    found: list[Step] = []
    at = 0
    while match := _SEGMENT.match(text, at):
        found.append(_step(match.group()))
        at = match.end()
        if at == len(text) and match.group() not in _SIGNS:
            return tuple(found)
        if match.group() in _SIGNS or text[at] != ".":
            break
        at += 1
    raise ValueError(f"expected a path such as origin.city, got {whole or text!r}")


def told(path: tuple[Step, ...]) -> str:
    """Return steps as a person reads them, which `steps` reads again."""
    return ".".join(_told(step) for step in path)


def _step(segment: str) -> Step:
    if segment.startswith('"'):
        try:
            return str(json.loads(segment))
        except ValueError:
            raise ValueError(f"expected a name in quotes as JSON writes it, got {segment}") from None
    return int(segment) if _POSITION.fullmatch(segment) else segment


def _told(step: Step) -> str:
    if isinstance(step, int):
        return str(step)
    if not step.isprintable():  # NUL or half a surrogate pair can stand in no text of the ledger, and hardly in a file
        return json.dumps(step)
    is_plain = _SEGMENT.fullmatch(step) and not step.startswith('"') and step not in _SIGNS
    return step if is_plain and not _POSITION.fullmatch(step) else json.dumps(step, ensure_ascii=False)
