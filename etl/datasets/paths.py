"""The paths of values in a record, as a definition spells them. Pure: this module reads paths, and no record.

A path consists of names joined by dots. A name in quotes is read as JSON reads it, so it may contain dots. A number is
also a position in an array, from 0. `.` is the whole object, `#` is its position in its array, and `@` is the key of
its record in an object of records. Each `^` at the beginning leads one object outwards. `$document.` leads to a member
of the document above the records. `$action` is the action of a record for Elasticsearch's bulk API, and `$action.`
leads to a member of it.
"""

import json
import re
from typing import Literal, NamedTuple

Step = str | int

_SEGMENT = re.compile(r'"(?:[^"\\]|\\.)*"|[^".][^.]*')
_POSITION = re.compile(r"0|[1-9][0-9]{0,8}")
_DOCUMENT = "$document."
ACTION = "$action"

ACTIONS = {"$index": "index", "$create": "create", "$update": "update", "delete": "delete"}
"""The members of a record that may be its action, and what they are called: an action with a document is marked."""

_SIGNS = frozenset({"^", "#", "@"})


class ValuePath(NamedTuple):
    """A path in its parts: `up` objects outwards, then these steps, or the meaning of the sign (such as ".").

    With the sign "$" the steps begin at the document above the records, with "!" at the action of the record.
    """

    up: int
    steps: tuple[Step, ...]
    sign: Literal["", ".", "#", "@", "$", "!"] = ""

    @property
    def member(self) -> str | None:
        """The name, if the path is a single member of the object itself; else None."""
        if self.up or self.sign or len(self.steps) != 1 or isinstance(self.steps[0], int):
            return None
        return self.steps[0]


def parse(text: str) -> ValuePath:
    """Read the path of a value.

    Raises ValueError with a message for the user.
    """
    if text.startswith(_DOCUMENT):
        return ValuePath(0, steps(text.removeprefix(_DOCUMENT), text), "$")
    if text == ACTION or text.startswith(f"{ACTION}."):
        rest = text.removeprefix(ACTION).removeprefix(".")
        return ValuePath(0, steps(rest, text) if rest or text != ACTION else (), "!")
    up, rest = 0, text
    while rest == "^" or rest.startswith("^."):
        up, rest = up + 1, rest[2:]
        if not rest and not text.endswith("."):
            return ValuePath(up, (), ".")
    if rest in {".", "#", "@"} and not (up and rest != "#"):
        return ValuePath(up, (), rest)  # type: ignore[arg-type] # one of the signs
    return ValuePath(up, steps(rest, text))


def steps(text: str, whole: str = "") -> tuple[Step, ...]:
    """Read the path of a member below an object; `whole` is the text that an error quotes.

    Raises ValueError with a message for the user.
    """
    path: list[Step] = []
    start = 0
    while match := _SEGMENT.match(text, start):
        path.append(_step(match.group()))
        start = match.end()
        if start == len(text) and match.group() not in _SIGNS:
            return tuple(path)
        if match.group() in _SIGNS or text[start] != ".":
            break
        start += 1
    raise ValueError(f"expected a path such as origin.city, got {whole or text!r}")


def before(path: ValuePath) -> ValuePath:
    """Return the path of the object named `before` on the way of a path that has it."""
    return ValuePath(path.up, path.steps[: path.steps.index("before") + 1])


def spelling(path: tuple[Step, ...]) -> str:
    """Return the text of a path, from which `steps` reads the same path."""
    return ".".join(_spelling_of(step) for step in path)


def _step(segment: str) -> Step:
    if segment.startswith('"'):
        try:
            return str(json.loads(segment))
        except ValueError:
            raise ValueError(f"expected a name in quotes as JSON writes it, got {segment}") from None
    return int(segment) if _POSITION.fullmatch(segment) else segment


def _spelling_of(step: Step) -> str:
    if isinstance(step, int):
        return str(step)
    if not step.isprintable():  # the ledger cannot store NUL or half a surrogate pair
        return json.dumps(step)
    is_plain = _SEGMENT.fullmatch(step) and not step.startswith('"') and step not in _SIGNS
    return step if is_plain and not _POSITION.fullmatch(step) else json.dumps(step, ensure_ascii=False)
