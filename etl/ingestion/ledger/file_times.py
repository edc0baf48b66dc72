"""The times of files: a load that trusts them takes a file of the same name, size and time for the one it has read."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import psycopg

from etl import queries

_SQL = queries.load("file_times")


class FileState(NamedTuple):
    """A file as a load finds it: its name, its size and the time of its last change, in nanoseconds."""

    name: str
    size: int
    time_ns: int


def trusted(connection: psycopg.Connection, dataset: str, files: Sequence[FileState]) -> dict[int, int]:
    """Return the numbers of the runs that have read files in these states, by the places of the files.

    Where several runs have read a file of this name, size and time, nobody knows which of them it is.
    """
    values = _columns(files) | {"dataset": dataset}
    found: dict[int, set[int]] = {}
    for place, number in connection.execute(_SQL["trusted_runs"], values):
        found.setdefault(place - 1, set()).add(number)
    return {place: numbers.pop() for place, numbers in found.items() if len(numbers) == 1}


def note_times(connection: psycopg.Connection, known: Mapping[int, FileState]) -> None:
    """Note the states of files that were read, given by the number of the run that has exactly their records."""
    connection.execute(_SQL["note_times"], _columns(list(known.values())) | {"numbers": list(known)})


def _columns(files: Sequence[FileState]) -> dict[str, object]:
    return {
        "sources": [file.name for file in files],
        "source_bytes": [file.size for file in files],
        "times": [file.time_ns for file in files],
    }
