"""The arguments of psql: a statement that is none of its options is run, not taken for the name of a database."""

import getopt
from collections.abc import Sequence

from etl.errors import UsageError

_SHORT = "aAbc:d:eEf:F:h:HlL:no:p:P:qR:sStT:U:v:VwWxXz01?"
_FLAGS = (
    *("csv", "echo-all", "echo-errors", "echo-hidden", "echo-queries", "expanded", "field-separator-zero", "html"),
    *("list", "no-align", "no-password", "no-psqlrc", "no-readline", "password", "quiet", "record-separator-zero"),
    *("single-line", "single-step", "single-transaction", "tuples-only", "version"),
)
_WITH_VALUE = (
    *("command", "dbname", "field-separator", "file", "host", "log-file", "output", "port", "pset"),
    *("record-separator", "set", "table-attr", "username", "variable"),
)


def with_statement(arguments: Sequence[str]) -> list[str]:
    """Return the arguments with the option -c before a statement that has no option.

    Raises UsageError for another word without an option: psql would take it for a database or a user.
    """
    try:
        _, words = getopt.gnu_getopt(list(arguments), _SHORT, [*_FLAGS, *(f"{name}=" for name in _WITH_VALUE)])
    except getopt.GetoptError:
        return list(arguments)  # psql says what is wrong.
    if not words:
        return list(arguments)
    if len(words) > 1 or not _is_statement(words[0]):
        shown = " ".join(words)
        raise UsageError(
            f"expected one statement in quotes, or options of psql, got {shown!r}",
            hint='etl db psql "select 1"; etl db psql -- -At -c "select 1"',
        )
    place = len(arguments) - 1 - list(reversed(arguments)).index(words[0])
    return [*arguments[:place], *arguments[place + 1 :], "-c", words[0]]


def _is_statement(word: str) -> bool:
    """Return whether a word is a statement or a command of psql, not a name."""
    return word.startswith("\\") or word.rstrip().endswith(";") or len(word.split()) > 1
