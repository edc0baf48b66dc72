"""The values of a document that are in none of its records, counted by their paths. Pure."""

from collections.abc import Mapping
from typing import Any

_MOST_PATHS = 500
_LONGEST = 100
_MOST_LEVELS = 20
"""With more paths, longer or deeper ones, the values are counted under the beginning of their path, followed by `*`."""


class Outside:
    """Counts the values around the records of one path, from the events of the document's reader."""

    def __init__(self, records: str) -> None:
        self._prefix = records.split(".")[:-1]
        self._counts: dict[str, int] = {}
        self._path: list[str] = []
        self._has_lost_names = records.endswith(".item") and "*" in self._prefix
        self.is_complete = False

    @property
    def counts(self) -> Mapping[str, int]:
        """The number of values at each path, in the order of the document."""
        return self._counts

    def add(self, event: str, value: Any) -> None:
        """Add the next event of the document; the records are not among the events."""
        if event == "map_key":
            self._path[-1] = str(value)
        elif event in {"start_map", "start_array"}:
            if event == "start_array" and self._has_lost_names and self._is_list_of_records():
                self._count(".".join(self._prefix) + " (the names there)")
            self._path.append("item" if event == "start_array" else "")
        elif event in {"end_map", "end_array"}:
            self._path.pop()
        elif self._path:
            self._count(self._spelled())

    def _is_list_of_records(self) -> bool:
        return len(self._path) == len(self._prefix) and all(
            wanted in {"*", name} for wanted, name in zip(self._prefix, self._path, strict=True)
        )

    def _spelled(self) -> str:
        text = ".".join(self._path[:_MOST_LEVELS])
        if len(self._path) > _MOST_LEVELS or len(text) > _LONGEST:
            return f"{text[:_LONGEST]}*"
        if text in self._counts or len(self._counts) < _MOST_PATHS:
            return text
        first = f"{self._path[0]}.*"[:_LONGEST]
        return first if first in self._counts or len(self._counts) < 2 * _MOST_PATHS else "*"

    def _count(self, path: str) -> None:
        self._counts[path] = self._counts.get(path, 0) + 1
