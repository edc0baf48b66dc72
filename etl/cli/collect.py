"""`etl collect`."""

from typing import Any

import click

from etl.cli.groups import Command
from etl.cli.options import Common, given_by, json_option, option, print_json, settings_options
from etl.errors import ExitCode, UsageError
from etl.options import build
from etl.settings import CollectSettings


@click.command("collect", cls=Command, epilog="Example: etl collect --port 8090")
@settings_options(CollectSettings)
@option("--status", "is_status", is_flag=True, help="Show how far each stream of the spool is loaded, and end.")
@json_option
@click.pass_obj
def command(common: Common, /, *, is_status: bool, as_json: bool, **given: Any) -> int:
    """Accept events over HTTP and load them as they come, until a signal arrives.

    POST /v1/events/DATASET takes an object, an array or lines, and answers 202 when the events are on the disk; a
    process of the collector loads them. Needs the extra `collect`: pip install 'WHEEL[collect]'. SIGTERM ends the
    collector with exit code 0, after the requests in hand and what is accepted.
    """
    settings = build(CollectSettings, given_by(CollectSettings, given))
    if is_status:
        return _status(common, settings, as_json=as_json)
    if as_json:
        raise UsageError("--json is for --status", hint="the log is JSON with --log-format json")
    try:
        from etl.collecting import server
    except ImportError as error:
        raise UsageError(
            f"the collector needs a package that is not installed: {error.name}",
            hint="install the extra `collect`: pip install 'WHEEL[collect]'",
        ) from error
    with common.database() as database:
        return server.collect(database, common.config_dir, settings, common.logs)


def _status(common: Common, settings: CollectSettings, *, as_json: bool) -> int:
    """Print the streams of the spool on this machine."""
    from etl.collecting import status
    from etl.database.connecting import connect

    with common.looking() as database, connect(database) as connection:
        found = list(status.states(connection, settings.spool))
    if as_json:
        print_json(vars(each) for each in found)
        return ExitCode.SUCCESS
    for each in found:
        waits = (
            f"{each.waiting_events:,} wait ({each.waiting_bytes:,} bytes), the oldest for {each.waiting_seconds:g} s"
        )
        click.echo(
            f"{each.stream}: {each.loaded_events:,} events loaded, {waits if each.waiting_bytes else 'none waits'}"
        )
    if not found:
        click.echo(f"no stream is in the spool {settings.spool}")
    return ExitCode.SUCCESS
