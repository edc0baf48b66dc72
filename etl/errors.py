"""The exceptions of this tool: each class knows whose fault it is, its exit code and what to do next.

The codes are the contract with schedulers (`docs/reference/exit-codes.md`). A record that cannot load is
not an exception but a value (`etl.ingestion.values.Rejected`); exceptions are for "stop".
"""

from typing import Any


class EtlError(Exception):
    """Stop the command: `str(error)` says what was expected and what was found, `hint` the next command."""

    exit_code = 70

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint

    def __reduce__(self) -> tuple[Any, ...]:
        """Let an error travel from one process to another with all that it tells."""
        return _told_again, (type(self), str(self), vars(self))


def _told_again(kind: type[EtlError], message: str, told: dict[str, Any]) -> EtlError:
    error = kind.__new__(kind, message)
    error.args = (message,)
    vars(error).update(told)
    return error


class UsageError(EtlError):
    """Wrong usage, settings, credentials, missing table or privilege; nothing was done."""

    exit_code = 2


class DefinitionError(UsageError):
    """A dataset definition or settings file is wrong; the message names file, table and column."""


class SourceError(EtlError):
    """The source cannot be read to its end: missing, truncated, not JSON, changed while read."""

    exit_code = 3


class DatabaseError(EtlError):
    """The database is away or refuses work, or a disk is full; running again goes on."""

    exit_code = 4


class TooManyRejectedError(EtlError):
    """More records were rejected than the settings allow, or a replace has no record at all."""

    exit_code = 5


class BusyError(EtlError):
    """Another run holds the source or the dataset."""

    exit_code = 6


class InternalError(EtlError):
    """A fault of this tool, such as a balance that does not add up."""

    exit_code = 70


class InterruptedByUserError(EtlError):
    """A signal ended the command; running again goes on."""

    def __init__(self, message: str, *, signal_number: int, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = 128 + signal_number


def reason_of(error: OSError) -> str:
    """Return the operating system's reason in lower case: a sentence of ours continues with it."""
    return (error.strerror or "unknown error").lower()
