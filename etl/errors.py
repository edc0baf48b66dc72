"""The exceptions and the exit codes of this tool: each class names whose fault it is and the next step.

The codes are the contract with schedulers (`docs/reference/exit-codes.md`). A record that cannot load is
not an exception but a value (`etl.ingestion.values.Rejected`); exceptions are for "stop".
"""

import enum
import errno
import signal
from collections.abc import Iterable, Sequence
from typing import Any


@enum.unique
class ExitCode(enum.IntEnum):
    """The exit codes of every command, the gravest first: this order decides between several (contract C3)."""

    INTERNAL_FAULT = 70
    SIGHUP = 128 + signal.SIGHUP
    SIGINT = 128 + signal.SIGINT
    SIGTERM = 128 + signal.SIGTERM
    DATABASE_AWAY = 4
    TOO_MANY_REJECTED = 5
    USAGE = 2
    SOURCE_UNREADABLE = 3
    BUSY = 6
    FINDINGS = 1
    """The work is done; records were rejected, or a check found differences."""
    SUCCESS = 0

    __repr__ = int.__repr__  # Logs show the number.


SIGNALS = frozenset({ExitCode.SIGHUP, ExitCode.SIGINT, ExitCode.SIGTERM})
"""Codes of a command that a signal ended."""

DONE = frozenset({ExitCode.SUCCESS, ExitCode.FINDINGS})
"""Codes of a command that did all of its work."""


def gravest(codes: Iterable[int]) -> ExitCode:
    """Return the gravest of some exit codes, SUCCESS without any.

    A number that is no ExitCode is a fault of this tool: it counts as INTERNAL_FAULT.
    """
    occurred = set(codes)
    if occurred - set(ExitCode):
        return ExitCode.INTERNAL_FAULT
    return next((code for code in ExitCode if code in occurred), ExitCode.SUCCESS)


class EtlError(Exception):
    """Stop the command: `str(error)` is what was expected and what was found, `hint` is the next command."""

    exit_code: ExitCode = ExitCode.INTERNAL_FAULT

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the error with its attributes and the SQLSTATE of its cause, so that a worker process can send it."""
        return _restored, (type(self), str(self), vars(self) | {"sqlstate": sqlstate_of(self)})


def _restored(kind: type[EtlError], message: str, attributes: dict[str, Any]) -> EtlError:
    error = kind.__new__(kind, message)
    error.args = (message,)
    vars(error).update(attributes)
    return error


def sqlstate_of(error: BaseException | None) -> str | None:
    """Return the SQLSTATE of an error, or of the error of the database that caused it; None without one."""
    while error is not None:
        found = getattr(error, "sqlstate", None)
        if isinstance(found, str):
            return found
        error = error.__cause__
    return None


class UsageError(EtlError):
    """Wrong usage, settings, credentials, missing table or privilege; nothing was done."""

    exit_code = ExitCode.USAGE


class DefinitionError(UsageError):
    """A dataset definition or settings file is wrong; the message names file, table and column."""


class SourceError(EtlError):
    """The source cannot be read to its end: missing, truncated, not JSON, changed while read."""

    exit_code = ExitCode.SOURCE_UNREADABLE


class DatabaseError(EtlError):
    """The database is away or refuses work, or a disk is full; the same command loads the rest later."""

    exit_code = ExitCode.DATABASE_AWAY


class UnreachableError(DatabaseError):
    """The server cannot be reached now: it refuses connections, starts or recovers. A moment later it may answer."""


class OutputError(EtlError):
    """The result cannot be written, as on a full disk; the same command writes it later."""

    exit_code = ExitCode.DATABASE_AWAY


class TooManyRejectedError(EtlError):
    """More records are rejected, or rows would be deleted, than the settings allow; or nothing would be published."""

    exit_code = ExitCode.TOO_MANY_REJECTED


class BusyError(EtlError):
    """Another run holds the source or the dataset."""

    exit_code = ExitCode.BUSY


class InternalError(EtlError):
    """A fault of this tool, such as a balance that does not add up."""

    exit_code = ExitCode.INTERNAL_FAULT


class SignalledError(KeyboardInterrupt):
    """Raised by a handler of a signal: whoever expects a Ctrl-C closes what is open.

    A KeyboardInterrupt itself, raised while `exec` runs a text as dataclasses do, would make Python end the process as
    by SIGINT, whatever its exit code.
    """


class InterruptedByUserError(EtlError):
    """A signal ended the command; the same command loads the rest."""

    def __init__(self, message: str, *, signal_number: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        # Without a handler of ours Python raises KeyboardInterrupt for SIGINT, and there is no number.
        self.exit_code = gravest([128 + (signal_number or signal.SIGINT)])


def combined(errors: Sequence[EtlError]) -> EtlError:
    """Return one error for several, at least one: the gravest of them, and the sentences of the others."""
    code = gravest(error.exit_code for error in errors)
    first = next(error for error in errors if error.exit_code == code)
    others = [str(error) for error in errors if error is not first]
    return type(first)("; ".join([str(first), *others]), hint=first.hint)


def reason_of(error: OSError) -> str:
    """Return the reason of the operating system in lower case, for the end of a message."""
    return (error.strerror or "unknown error").lower()


def cannot_write(path: str, error: OSError) -> EtlError:
    """Return the error of a result that cannot be written to a file: later on a full disk, never to a wrong name."""
    message = f"cannot write {path}: {reason_of(error)}"
    if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EFBIG}:
        return OutputError(message, hint="make room and run the same command again")
    return UsageError(message)
