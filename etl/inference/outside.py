"""The values of a document outside its records, counted by their paths. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from etl.datasets import paths
from etl.inference import vocabulary

_MOST_PATHS = 500
_LONGEST = 100
_MOST_LEVELS = 20
"""With more paths, longer or deeper ones, the values are counted under the beginning of their path, followed by `*`."""

_MOST_MEMBERS = 10
_LONGEST_VALUE = 200
_DEEPEST_MEMBER = 3


@dataclass(frozen=True, kw_only=True)
class Member:
    """A scalar above the records that identifies the document: its path, its spelling among the counts, its value."""

    path: tuple[str, ...]
    spelled: str
    value: Any

    @property
    def words(self) -> tuple[str, ...]:
        """The names of its path without those that describe the document."""
        return (*(name for name in self.path[:-1] if not vocabulary.is_meta(name)), self.path[-1])

    @property
    def document_path(self) -> str:
        """The path of its value for a column."""
        return f"{_DOCUMENT}.{paths.spelling(self.path)}"


_DOCUMENT = "$document"


def can_take_members() -> bool:
    """Tell whether a column of a definition can take a member of the document."""
    return paths.parse(f"{_DOCUMENT}.name").steps == ("name",)


class Outside:
    """Counts the values around the records of one path, from the events of the document's reader."""

    def __init__(self, records: str) -> None:
        self._prefix = records.split(".")[:-1]
        self._counts: dict[str, int] = {}
        self._has_lost_names = records.endswith(".item") and "*" in self._prefix
        self._members: list[Member] = []
        self._documents = 0
        self._is_after_records = False
        self.is_complete = False

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of values at each path, in the order of the document."""
        return self._counts

    def take_members(self) -> Sequence[Member]:
        """Return the scalars before the records that identify the document, and count them no more."""
        if self._documents != 1 or not self._prefix or not can_take_members():
            return []
        for member in self._members:
            self._counts.pop(member.spelled)
        return self._members

    def add(self, path: Sequence[str], event: str, value: Any) -> None:
        """Add the next event of the document, with the path at which it is; the records are not among the events."""
        if event in {"start_map", "start_array"}:
            self._documents += not path
            if self._is_list_of_records(path):
                self._is_after_records = True
                if event == "start_array" and self._has_lost_names:
                    self._count(".".join(self._prefix) + " (the names there)")
        elif path and event not in {"map_key", "end_map", "end_array"}:
            spelled = self._spelled(path)
            if spelled not in self._counts:
                self._note_member(path, spelled, value)
            self._count(spelled)

    def _note_member(self, path: Sequence[str], spelled: str, value: Any) -> None:
        """Note a scalar that identifies the document: it is no part of a list, and does not say how one was made."""
        is_member = not self._is_after_records and "item" not in path and len(path) <= _DEEPEST_MEMBER
        # True and false say how the list was made, such as whether there is more of it.
        if value is None or isinstance(value, bool):
            return
        if not is_member or len(self._members) >= _MOST_MEMBERS or len(str(value)) > _LONGEST_VALUE:
            return
        if not all(path) or spelled.endswith("*") or not vocabulary.identifies_document(tuple(path)):
            return
        self._members.append(Member(path=tuple(path), spelled=spelled, value=value))

    def _is_list_of_records(self, path: Sequence[str]) -> bool:
        return len(path) == len(self._prefix) and all(
            wanted in {"*", name} for wanted, name in zip(self._prefix, path, strict=True)
        )

    def _spelled(self, path: Sequence[str]) -> str:
        text = ".".join(path[:_MOST_LEVELS])
        if len(path) > _MOST_LEVELS or len(text) > _LONGEST:
            return f"{text[:_LONGEST]}*"
        if text in self._counts or len(self._counts) < _MOST_PATHS:
            return text
        first = f"{path[0]}.*"[:_LONGEST]
        return first if first in self._counts or len(self._counts) < 2 * _MOST_PATHS else "*"

    def _count(self, path: str) -> None:
        self._counts[path] = self._counts.get(path, 0) + 1
