"""The commands: parse, call one function, print, exit code. Nothing else."""

import importlib
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import click
import structlog

from etl import __version__, logs
from etl.cli.options import Common, option
from etl.errors import EtlError, UsageError
from etl.settings import read_file_settings

_COMMANDS = {
    "load": "load",
    "runs": "runs",
    "failed": "failed",
    "precalculate": "precalculate",
    "listen": "listen",
    "report": "report",
    "dataset": "dataset",
    "db": "db",
    "generate": "generate",
}


_SUBCOMMANDS = ("list", "show", "replay", "discard", "purge")


class _Lazy(click.Group):
    """A group that imports a command's module when the command is named: start-up costs what is used."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - Click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        command: click.Command = importlib.import_module(f"etl.cli.{module}").command
        return command


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="etl")
@option("--config-dir", default="./config", show_default=True, metavar="DIR", help="Folder of etl.toml and datasets/.")
@option(
    "--database",
    envvar=["ETL_DATABASE_URL", "DATABASE_URL"],
    metavar="URL",
    help="postgresql:// address or embedded:[FOLDER]; else libpq's PG* variables, else etl.toml.",
)
@option(
    "--log-format",
    type=click.Choice(["auto", "console", "json"]),
    default="auto",
    show_default=True,
    help="Format of the logs; auto is console on a terminal and JSON elsewhere.",
)
@option(
    "--log-level",
    type=click.Choice(["debug", "info", "warning", "error"]),
    default="info",
    show_default=True,
    help="Least level of the logs.",
)
@click.pass_context
def cli(ctx: click.Context, config_dir: str, database: str | None, log_format: logs.LogFormat, log_level: str) -> None:
    """Load huge JSON files of logistics data into PostgreSQL: nothing lost, nothing doubled.

    Exit codes: 0 all in; 1 some records rejected; 2 wrong usage; 3 source unreadable; 4 database away;
    5 too many rejected; 6 busy; 70 a fault of this tool; 130 and 143 stopped by a signal.
    """
    if is_given(ctx, "config_dir") and not Path(config_dir).is_dir():
        raise UsageError(f"the configuration folder {config_dir} is missing", hint="name another by --config-dir")
    settings = read_file_settings(Path(config_dir))
    defaults = settings.as_defaults()
    # A group's subcommands look below the group's own defaults.
    ctx.default_map = {name: defaults | dict.fromkeys(_SUBCOMMANDS, defaults) for name in ("load", "failed")}
    given = {
        name: defaults[name] for name in ("log_format", "log_level") if name in defaults and not is_given(ctx, name)
    }
    log_format, log_level = given.get("log_format", log_format), given.get("log_level", log_level)
    logs.set_up(log_format, log_level, colors=use_colors())
    ctx.obj = Common(config_dir=Path(config_dir), given=database, from_file=settings.database)


def is_given(ctx: click.Context, name: str) -> bool:
    """Tell whether a parameter was given by flag or environment."""
    return ctx.get_parameter_source(name) != click.core.ParameterSource.DEFAULT


def use_colors() -> bool:
    """Tell whether stderr is a terminal that wants colours."""
    return sys.stderr.isatty() and not os.environ.get("NO_COLOR")


def main() -> None:
    """Run the command line and end the process with the exit code of contract C3."""
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command and return its exit code; errors are told in a sentence on stderr."""
    logs.set_up("auto", "info", colors=use_colors())
    try:
        result: Any = cli.main(args=arguments, prog_name="etl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except EtlError as error:
        tell(error)
        return error.exit_code
    except Exception as error:  # noqa: BLE001 - the last door: a fault of this tool, told as such (exit code 70)
        log = structlog.get_logger("etl")
        log.error("unexpected_fault", **_told(error), hint="report it with this text")  # noqa: TRY400 - see _told
        return 70
    return result if isinstance(result, int) else 0


def _told(error: Exception) -> dict[str, Any]:
    """Return what is told of an unexpected error: its type and where it rose, in no case a value of the data.

    Only the messages of these types speak of nothing but code; that of a ValueError may quote a record.
    """
    told: dict[str, Any] = {"fault": type(error).__name__, "frames": traceback.format_tb(error.__traceback__)}
    if isinstance(error, AttributeError | ImportError | NameError | TypeError):
        told["message"] = str(error)
    return told


def tell(error: EtlError) -> None:
    """Tell an error on stderr: what is wrong, then the next command."""
    click.echo(f"error: {error}", err=True)
    if error.hint:
        click.echo(f"hint: {error.hint}", err=True)
