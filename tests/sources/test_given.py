"""Open files and records of a program as streams of bytes."""

import io
import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest

from etl.errors import SourceError
from etl.ingestion.sources.given import FileBytes, ProgramError, Readable, RecordLines


class Colour(Enum):
    """A colour."""

    RED = "red"


class Level(IntEnum):
    """A level."""

    HIGH = 3


class Fraction(float):
    """As numpy's float64 is: a float of another class."""


class Moment(datetime):
    """As the time of pandas is: a datetime of another class."""


class Never(datetime):
    """As NaT of pandas is: equal to nothing."""

    def __eq__(self, other: object) -> bool:
        return False

    def __ne__(self, other: object) -> bool:
        return True

    __hash__ = datetime.__hash__


def lines_of(records: Iterable[Any], name: str = "-") -> bytes:
    """Return all bytes of some records."""
    return io.BufferedReader(RecordLines(records, name)).read()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (Decimal("1.10"), "1.10"),
        (Decimal("123456789012345678901234567890.12"), "123456789012345678901234567890.12"),
        (Decimal("1E+400"), "1E+400"),
        (10**30, "1" + "0" * 30),
        (Fraction(1.5), "1.5"),
        (Level.HIGH, "3"),
        (Colour.RED, '"red"'),
        (True, "true"),
        (None, "null"),
        ('a\tb\n"\\\N{SNOWMAN}', '"a\\tb\\n\\"\\\\\N{SNOWMAN}"'),
        (date(2026, 1, 2), '"2026-01-02"'),
        (time(1, 2, 3), '"01:02:03"'),
        (datetime(2026, 1, 2, 3, 4, 5, 6), '"2026-01-02T03:04:05.000006"'),  # noqa: DTZ001 - without a zone
        (datetime(2026, 1, 2, tzinfo=UTC), '"2026-01-02T00:00:00Z"'),
        (datetime(2026, 1, 2, tzinfo=timezone(timedelta(hours=-3))), '"2026-01-02T00:00:00-03:00"'),
        (datetime(1880, 1, 2, tzinfo=timezone(timedelta(seconds=3208))), '"1880-01-01T23:06:32+00:00"'),
        (Moment(2026, 1, 2, tzinfo=UTC), '"2026-01-02T00:00:00+00:00"'),
        (UUID(int=5), '"00000000-0000-0000-0000-000000000005"'),
        ((1, [2, {"b": None}]), '[1,[2,{"b":null}]]'),
        (OrderedDict(b=MappingProxyType({"c": 1})), '{"b":{"c":1}}'),
    ],
)
def test_a_value_becomes_what_a_column_reads(value: object, text: str) -> None:
    """Numbers keep their digits, times their instant, texts their characters; subclasses are as their bases."""
    assert lines_of([{"a": value}]).decode() == f'{{"a":{text}}}\n'


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"SECRET": float("nan")}, "holds NaN or an infinity"),
        ({"SECRET": [{"a": float("-inf")}]}, "holds NaN or an infinity"),
        ({"SECRET": Decimal("NaN")}, "holds NaN or an infinity"),
        ({"SECRET": Decimal("sNaN")}, "holds NaN or an infinity"),
        ({"SECRET": Never(2026, 1, 1)}, "holds NaT"),
        ({1: "SECRET"}, "has a key of type int"),
        ({"SECRET": {None: 1}}, "has a key of type NoneType"),
        ({"SECRET": b"SECRET"}, "holds a value of type bytes"),
        ({"SECRET": {"SECRET"}}, "holds a value of type set"),
        ({"SECRET": object()}, "holds a value of type object"),
        ({"SECRET": "\ud800"}, "holds a surrogate"),
        ("SECRET", "is of type str, expected a dict"),
        (["SECRET"], "is of type list, expected a dict"),
        (None, "is of type NoneType, expected a dict"),
    ],
)
def test_a_fault_names_the_number_of_the_record_and_none_of_its_content(record: Any, reason: str) -> None:
    """The records before it are given out first."""
    reader = io.BufferedReader(RecordLines([{"a": 1}, {"a": 2}, record, {"a": 3}], "feed"))
    assert reader.read1(1000) == b'{"a":1}\n{"a":2}\n'
    for _ in range(2):
        with pytest.raises(SourceError, match=f"^feed: record 3 {reason}") as caught:
            reader.read1(1000)
        assert "SECRET" not in f"{caught.value} {caught.value.hint}"


def test_a_record_within_itself_is_a_fault() -> None:
    """A record that has no end does not end the program."""
    record: dict[str, Any] = {}
    record["a"] = record
    with pytest.raises(SourceError, match=r"^record 1 is nested too deeply, or contains itself"):
        lines_of([record])


def test_records_are_asked_for_when_they_are_read() -> None:
    """Only some records are in memory at a time, for any number of records."""
    made = []

    def records() -> Iterator[dict[str, int]]:
        for number in range(10_000_000):
            made.append(number)
            yield {"number": number}

    reader = io.BufferedReader(RecordLines(records(), "-"))
    assert reader.read(1000).startswith(b'{"number":0}\n{"number":1}\n')
    assert len(made) < 1000


def test_no_record_is_an_empty_array() -> None:
    """A query without a result is no fault."""
    assert json.loads(lines_of(iter([]))) == []


@pytest.mark.parametrize(
    "error", [OSError("mine"), EOFError("mine"), SourceError("mine"), ValueError("mine")], ids=repr
)
def test_an_exception_of_the_program_comes_after_the_records_before_it(error: Exception) -> None:
    """It is kept as it is, whatever it is."""

    def records() -> Iterator[dict[str, int]]:
        yield {"a": 1}
        raise error

    reader = io.BufferedReader(RecordLines(records(), "-"))
    assert reader.read1(1000) == b'{"a":1}\n'
    with pytest.raises(ProgramError, match="after record 1 while the records were made") as caught:
        reader.read1(1000)
    assert caught.value.original is error


@pytest.mark.parametrize(
    "file",
    [io.BytesIO(b"\xc3\xa4" * 1000), io.StringIO("\N{LATIN SMALL LETTER A WITH DIAERESIS}" * 1000)],
    ids=["bytes", "text"],
)
def test_a_file_object_gives_its_bytes_and_stays_open(file: Readable) -> None:
    """Text is UTF-8."""
    with io.BufferedReader(FileBytes(file, "-")) as reader:
        assert reader.read() == b"\xc3\xa4" * 1000
    assert not getattr(file, "closed", True)


def test_a_file_object_is_read_from_where_it_is() -> None:
    """What the program has read is not read again."""
    file = io.BytesIO(b"0123456789")
    file.read(4)
    assert io.BufferedReader(FileBytes(file, "-")).read() == b"456789"


def test_a_compressed_file_opened_as_text_is_explained(tmp_path: Path) -> None:
    """The hint says how to open it."""
    path = tmp_path / "a.json.gz"
    path.write_bytes(b"\x1f\x8b\x08\x00\xff\xff")
    with path.open(encoding="utf-8") as file, pytest.raises(SourceError, match="opened as text") as caught:
        io.BufferedReader(FileBytes(file, "-")).read()
    assert caught.value.hint == 'open it as bytes: open(path, "rb")'


def test_a_slow_pipe_gives_what_is_there() -> None:
    """After the beginning, no read waits for more than there is."""
    parts = [b'{"a', b'":1,"b":2}\n', b'{"c":3}\n']

    class Pipe:
        def read(self, size: int = -1, /) -> bytes:
            raise AssertionError(size)

        def read1(self, _size: int, /) -> bytes:
            return parts.pop(0) if parts else b""

    reader = io.BufferedReader(FileBytes(Pipe(), "-"))
    assert reader.read1(1000) == b'{"a":1,"b":2}\n'
    assert reader.read1(1000) == b'{"c":3}\n'
    assert reader.read1(1000) == b""


class Nothing:
    """A file object that is none."""

    def read(self, _size: int = -1, /) -> Any:
        """Return no bytes and no text."""
        return {"SECRET": 1}


def test_a_file_object_that_returns_something_else_is_a_fault() -> None:
    """Neither bytes nor text."""
    with pytest.raises(SourceError, match=r"^feed: read\(\) of the file object returned dict, expected bytes or text$"):
        io.BufferedReader(FileBytes(Nothing(), "feed")).read()
