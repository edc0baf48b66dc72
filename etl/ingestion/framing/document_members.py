"""Members of a document around its records (`$document.NAME`), collected while the document is read. Pure."""

from collections.abc import Iterable, Sequence
from typing import Any

import ijson

from etl.errors import UsageError

_BEGINS = frozenset({"start_map", "start_array"})
_ENDS = frozenset({"end_map", "end_array"})


class _Building:
    """An object or array at a path that is being read, at this depth."""

    def __init__(self, path: tuple[str, ...]) -> None:
        self.path = path
        self.built = ijson.ObjectBuilder()
        self.depth = 1


class DocumentMembers:
    """Members of the document around the records; `values` are those found so far.

    Of documents that follow one another all must have the same values.
    """

    def __init__(self, wanted: Iterable[tuple[str, ...]]) -> None:
        self.values: dict[tuple[str, ...], Any] = {}
        self._wanted = frozenset(wanted)
        self._first: dict[tuple[str, ...], Any] | None = None
        self._documents = 0
        self._builders: list[_Building] = []

    @property
    def has_all(self) -> bool:
        """Whether each member was found."""
        return self.values.keys() == self._wanted

    def add(self, path: Sequence[str], event: str, value: Any) -> None:
        """Take an event of the document.

        Raises UsageError when a member has another value than in the first document.
        """
        if not path and event in _BEGINS:
            self._begin()
        for builder in self._builders:
            builder.built.event(event, value)
            builder.depth += (event in _BEGINS) - (event in _ENDS)
            if not builder.depth:
                self._keep(builder.path, builder.built.value)
        self._builders = [builder for builder in self._builders if builder.depth]
        if event == "map_key" or event in _ENDS or (at := tuple(path)) not in self._wanted:
            return
        if event in _BEGINS:
            self._builders.append(_Building(at))
            self._builders[-1].built.event(event, value)
        else:
            self._keep(at, value)

    def _begin(self) -> None:
        """Begin a document; the one before it must have had each member of the first one."""
        self._documents += 1
        if self._documents == 1:
            return
        if self._first is None:
            self._first = self.values
        for path in self._first.keys() - self.values.keys():
            raise self._other_value(path)
        self.values = {}

    def _keep(self, path: tuple[str, ...], value: Any) -> None:
        if self._first is not None and self._first.get(path) != value:
            raise self._other_value(path)
        self.values[path] = value

    def _other_value(self, path: tuple[str, ...]) -> UsageError:
        """Return the error of a member that has another value than in the first document, or is missing."""
        name = ".".join(path)
        return UsageError(
            f"document {self._documents} has another value of {name} than the first one, and a column with $document"
            " takes one value for all records",
            hint='take the documents as records (records = "item"), their array by `each`, and the member by'
            f' path = "^.{name}"',
        )
