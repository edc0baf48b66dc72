"""Sources that a program in Python gives, an open file or records, as a stream of bytes. Closes none of them.

Records become lines of JSON, one each. A fault names the number of the record, and nothing of its content.
"""

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from io import RawIOBase
from typing import TYPE_CHECKING, Any, Final, Protocol
from uuid import UUID

import msgspec

from etl.errors import SourceError
from etl.ingestion.constants import MAGIC_BYTES, READ_BYTES

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_AGAIN: Final = "the same call loads the rest; loaded records are not loaded twice"
_MISSING: Final = "write None for a missing value"

# Values of these types have one JSON form each, which the encoder writes.
_PLAIN: Final = frozenset({str, int, bool, type(None), date, time, timedelta, UUID})
_NUMPY_OTHERS: Final = frozenset({"datetime64", "timedelta64", "ndarray", "void"})
_NUMBERS: Final = frozenset({float, Decimal})


class Readable(Protocol):
    """An open file of bytes or text, or anything else that is read as one."""

    def read(self, size: int = ..., /) -> bytes | str:
        """Return at most `size` bytes or characters, none at the end."""


class ProgramError(SourceError):
    """An exception of the program that gave the source ended it; `original` is that exception."""

    def __init__(self, message: str, original: Exception) -> None:
        super().__init__(message, hint=_AGAIN)
        self.original = original


class _Given(RawIOBase):
    """A stream of what `_more` appends to `_pending`, until it returns False; a fault comes after the bytes before."""

    def __init__(self, name: str) -> None:
        # Most have no name, and "-" would explain nothing.
        self._prefix = "" if name == "-" else f"{name}: "
        self._pending = bytearray()
        self._is_done = False
        self._fault: SourceError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        least = self._least(len(view))
        while len(self._pending) < least and not self._is_done:
            try:
                self._is_done = not self._more()
            except SourceError as fault:
                self._is_done, self._fault = True, fault
        if not self._pending and self._fault is not None:
            raise self._fault
        length = min(len(view), len(self._pending))
        view[:length] = self._pending[:length]
        del self._pending[:length]
        return length

    def _least(self, wanted: int) -> int:
        """Return how many bytes are worth waiting for."""
        return wanted

    @abstractmethod
    def _more(self) -> bool:
        """Append further bytes to `_pending`; return False when there are no more."""


class FileBytes(_Given):
    """The bytes of an open file, from where it is; text is encoded as UTF-8."""

    def __init__(self, file: Readable, name: str) -> None:
        super().__init__(name)
        # A pipe or a socket gives what is there; `read` would wait for all.
        self._read: Callable[[int], bytes | str | None] = getattr(file, "read1", file.read)
        self._is_begun = False

    def _least(self, wanted: int) -> int:
        # At the beginning as many as show a compression, also on a slow pipe.
        least = 1 if self._is_begun else MAGIC_BYTES
        self._is_begun = True
        return min(wanted, least)

    def _more(self) -> bool:
        try:
            data = self._read(READ_BYTES)
        except UnicodeDecodeError as error:
            raise SourceError(
                f"{self._prefix}the file was opened as text, and its bytes are not {error.encoding}",
                hint='open it as bytes: open(path, "rb")',
            ) from None
        except Exception as error:  # whatever the program raises: the caller of the load gets it back
            raise ProgramError(f"{self._prefix}{type(error).__name__} while the file object was read", error) from error
        if isinstance(data, str):
            data = data.encode("utf-8", "surrogatepass")
        if not isinstance(data, bytes | bytearray | memoryview):
            raise SourceError(
                f"{self._prefix}read() of the file object returned {type(data).__name__}, expected bytes or text"
            )
        self._pending += data
        return bool(data)


class RecordLines(_Given):
    """Records as lines of JSON. Without a record it is an empty array."""

    def __init__(self, records: Iterable[Mapping[str, Any]], name: str) -> None:
        super().__init__(name)
        self._records: Iterable[Any] = records
        self._iterator: Iterator[Any] | None = None
        self._count = 0
        self._encoder = msgspec.json.Encoder(decimal_format="number")

    def _more(self) -> bool:
        try:
            if self._iterator is None:
                self._iterator = iter(self._records)
            record = next(self._iterator)
        except StopIteration:
            if not self._count:
                self._pending += b"[]\n"
            return False
        except Exception as error:  # whatever the program raises: the caller of the load gets it back
            raise ProgramError(
                f"{self._prefix}{type(error).__name__} after record {self._count:,} while the records were made", error
            ) from error
        self._count += 1
        self._pending += self._line(record)
        self._pending += b"\n"
        return True

    def _line(self, record: object) -> bytes:
        if not isinstance(record, Mapping):
            raise self._fault_of_record(
                f"is of type {type(record).__name__}, expected a dict", _hint_for_other(type(record))
            )
        try:
            return self._encoder.encode(record if type(record) is dict and _is_plain(record) else _converted(record))
        except _NoJSONError as error:
            raise self._fault_of_record(str(error), error.hint) from None
        except UnicodeEncodeError:
            raise self._fault_of_record("holds a surrogate that is half of a character", None) from None
        except RecursionError:
            raise self._fault_of_record("is nested too deeply, or contains itself", None) from None

    def _fault_of_record(self, reason: str, hint: str | None) -> SourceError:
        return SourceError(f"{self._prefix}record {self._count:,} {reason}", hint=hint)


class _NoJSONError(Exception):
    """A value has no form in JSON; the message says what a record with it does."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


def _is_plain(value: dict[Any, Any] | list[Any]) -> bool:
    """Return whether the encoder writes a value as it should be; most records are so."""
    if type(value) is dict:
        for name in value:
            if type(name) is not str:
                return False
        values: Iterable[Any] = value.values()
    else:
        values = value
    for each in values:
        kind = type(each)
        if kind in _PLAIN:
            continue
        if kind in _NUMBERS:
            if not (math.isfinite(each) if kind is float else each.is_finite()):
                return False
        elif kind is datetime:
            if each.tzinfo is not None and each.tzinfo is not UTC:
                return False
        elif not (kind in {dict, list} and _is_plain(each)):
            return False
    return True


def _converted(value: Any) -> Any:
    """Return a value as the encoder can write it: subclasses as their base, other mappings as dicts, tuples as lists.

    Raises _NoJSONError for what has no form in JSON.
    """
    if isinstance(value, Mapping):
        return {_name(name): _converted(each) for name, each in value.items()}
    if isinstance(value, list | tuple | deque):
        return [_converted(each) for each in value]
    if isinstance(value, Enum):
        return _converted(value.value)
    if _is_numpy_number(value):
        return _converted(value.item())
    for kinds, convert in _CONVERSIONS:
        if isinstance(value, kinds):
            return convert(value)
    raise _NoJSONError(f"holds a value of type {type(value).__name__}, which has no form in JSON", _hint_for(value))


def _is_numpy_number(value: Any) -> bool:
    """Return whether a value is a single number or boolean of numpy; its times would become bare numbers."""
    kind = type(value)
    return kind.__module__ == "numpy" and getattr(value, "shape", None) == () and kind.__name__ not in _NUMPY_OTHERS


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise _NoJSONError(f"has a key of type {type(name).__name__}, expected str")
    return str.__str__(name)


def _time(value: Any) -> Any:
    """Return a time, a date or a UUID as its own class, or as text."""
    if isinstance(value, datetime):
        if value != value:  # noqa: PLR0124 - a missing time of pandas, NaT
            raise _NoJSONError("holds NaT, a missing time", _MISSING)
        offset = value.utcoffset()
        # RFC 3339 has no seconds in an offset, and old offsets of some zones have.
        return (value.astimezone(UTC) if offset is not None and offset % timedelta(minutes=1) else value).isoformat()
    return value if type(value) in _PLAIN else str(value)


def _number(value: Any) -> float | Decimal:
    """Return a number with a fraction as its base class."""
    if not (math.isfinite(value) if isinstance(value, float) else value.is_finite()):
        raise _NoJSONError("holds NaN or an infinity, which JSON does not have", _MISSING)
    return float(value) if isinstance(value, float) else Decimal(value)


_CONVERSIONS: Final[tuple[tuple[Any, Callable[[Any], Any]], ...]] = (
    (bool | None, lambda value: value),
    (float | Decimal, _number),
    (str, str.__str__),
    (int, int),
    (date | time | timedelta | UUID, _time),
)
"""The values that the encoder gets, by the classes of the given values: `bool` before `int`."""


def _hint_for(value: object) -> str:
    if isinstance(value, bytes | bytearray | memoryview):
        return "decode bytes to text"
    if isinstance(value, set | frozenset):
        return "sort a set into a list"
    package = type(value).__module__.partition(".")[0]
    if package in {"pandas", "numpy"}:
        return _MISSING if package == "pandas" else "value.tolist() makes a value of Python of it"
    return "convert it to text, a number, a list or a dict"


def _hint_for_other(kind: type) -> str:
    if issubclass(kind, str) or hasattr(kind, "__fspath__"):
        return "several paths are several arguments: etl.load(dataset, *paths)"
    if issubclass(kind, bytes):
        return "bytes are read from a file object, such as io.BytesIO(data)"
    if issubclass(kind, tuple) and hasattr(kind, "_asdict"):
        return "row._asdict() makes a dict of it"
    if hasattr(kind, "keys"):
        return "dict(row) makes a dict of it"
    if hasattr(kind, "__dataclass_fields__"):
        return "dataclasses.asdict(record) makes a dict of it"
    return "each record is a dict whose keys are the names of its members"
