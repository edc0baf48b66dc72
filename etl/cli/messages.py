"""Messages of a command on stderr beside its log: errors, warnings, notes. With `--log-format json` they are events.

In the automatic format they are text also without a terminal: people read them in mails, and scripts search for
`error: `. The errors of a command line that is not parsed yet, too, have the format that it asks for.
"""

import sys
import threading
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TextIO

import click

from etl.cli import next_commands
from etl.errors import EtlError, ExitCode, sqlstate_of
from etl.options import setting_of, settings_of
from etl.quick_dataclasses import dataclass
from etl.settings import GlobalSettings, twins
from etl.standard_streams import one_line

if TYPE_CHECKING:
    import structlog

    from etl.logs import Logs


@dataclass(kw_only=True)
class _State:
    is_json: bool = False
    has_logs: bool = False


_state = _State()

_OF_TESTS = ("ETL_TEST_", "ETL_MIXTURE")
"""Beginnings of the variables that the tests of this project read."""


def begin(arguments: Sequence[str], environment: Mapping[str, str]) -> None:
    """Use the format that a command line and its environment ask for, until `use` says it from all sources."""
    _state.is_json = _asked_format(arguments, environment) == "json"
    _state.has_logs = False


def use(settings: "Logs") -> None:
    """Set up the log, and say everything else in its format."""
    from etl import logs

    logs.set_up(settings)
    _state.is_json = settings.format == "json"
    _state.has_logs = True


def take_over_from_python(describe: Callable[[BaseException | None], dict[str, Any]]) -> None:
    """Let what Python itself tells on stderr be events, too, when everything is JSON.

    These are its warnings, and errors that end a thread or that it drops. `describe` says what an event may have of an
    error.
    """
    show, unraisable, thread = warnings.showwarning, sys.unraisablehook, threading.excepthook

    def warned(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if _state.is_json:
            logger().warning("python_warned", category=category.__name__, place=f"{filename}:{lineno}")
        else:
            show(message, category, filename, lineno, file, line)

    def dropped(error: "sys.UnraisableHookArgs") -> None:
        if isinstance(error.exc_value, KeyboardInterrupt):
            return
        if _state.is_json:
            logger().error("error_dropped", **describe(error.exc_value))
        else:
            unraisable(error)

    def ended(error: threading.ExceptHookArgs) -> None:
        if _state.is_json:
            logger().error("thread_ended", **describe(error.exc_value))
        else:
            thread(error)

    warnings.showwarning, sys.unraisablehook, threading.excepthook = warned, dropped, ended


def note(text: str) -> None:
    """Tell one line that is neither a result nor wrong."""
    if _state.is_json:
        logger().info("noted", text=text)
        return
    sys.stdout.flush()  # Both may be one mail: what was printed before comes first.
    click.echo(one_line(text), err=True)


def warn(error: EtlError) -> None:
    """Print a warning of an error that hinders nothing of this command."""
    if _state.is_json:
        logger().warning("warned", reason=str(error), **_next_of(error))
    else:
        click.echo(one_line(f"warning: {error}"), err=True)


def fail(error: EtlError, **about: Any) -> None:
    """Tell an error: what is wrong, then the next command. `about` says what it ended; only events have it."""
    if _state.is_json:
        code = sqlstate_of(error)
        more = _next_of(error) | ({"sqlstate": code} if code else {})
        logger().error("failed", reason=str(error), exit_code=int(error.exit_code), **more, **about)
        return
    note(f"error: {error}")
    if error.hint:
        note(f"hint: {next_commands.completed(error.hint)}")


def refuse(error: click.ClickException) -> None:
    """Tell that Click refuses the command line."""
    if not _state.is_json:
        error.message = one_line(error.message)  # type: ignore[misc] # it quotes arguments
        error.show()
        return
    context = error.ctx if isinstance(error, click.UsageError) else None
    hint = {"hint": f"{context.command_path} --help"} if context is not None else {}
    logger().error("failed", reason=error.format_message(), exit_code=int(ExitCode.USAGE), **hint)


def logger() -> "structlog.stdlib.BoundLogger":
    """Return the logger of the command line, in the format that was asked for until the settings are read."""
    import structlog

    from etl import logs

    if not _state.has_logs:
        use(logs.Logs(format="json" if _state.is_json else "auto"))
    log: structlog.stdlib.BoundLogger = structlog.get_logger("etl")
    return log


def _next_of(error: EtlError) -> dict[str, str]:
    return {"hint": next_commands.completed(error.hint)} if error.hint else {}


def _asked_format(arguments: Sequence[str], environment: Mapping[str, str]) -> str | None:
    """Return the log format of the options before the command, else of the environment."""
    flags = {f"--{each.key.replace('_', '-')}" for each in settings_of(GlobalSettings)}
    wanted = setting_of(GlobalSettings, "log_format")
    found, words = None, iter(arguments)
    for word in words:
        if not word.startswith("-") or word == "--":
            break  # The command; what follows are its own options.
        name, equals, value = word.partition("=")
        if name in flags and not equals:
            value = next(words, "")
        if name == "--log-format":
            found = value
    return found or next((environment[twin] for twin in wanted.twins if environment.get(twin)), None)


def warn_of_unknown(environment: Mapping[str, str]) -> None:
    """Warn of each variable that begins with `ETL_` and sets nothing; its value may be a password and is not shown."""
    import structlog

    log = structlog.get_logger(__name__)
    known = twins()
    for name in sorted(environment):
        if name.startswith("ETL_") and name not in known and not name.startswith(_OF_TESTS):
            log.warning("unknown_variable", variable=name, hint="it sets nothing; docs/reference/settings.md has all")
