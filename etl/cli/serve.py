"""`etl serve`."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from etl.cli.groups import Command
from etl.cli.options import Common, given_by, settings_options
from etl.errors import UsageError
from etl.options import build
from etl.settings import CollectSettings, ServeSettings

if TYPE_CHECKING:
    from etl.collecting.receiving import Receiver
    from etl.database.connecting import Database


@click.command("serve", cls=Command, epilog="Example: etl serve --port 8080")
@settings_options(ServeSettings)
@click.pass_obj
def command(common: Common, /, **given: Any) -> int:
    """Serve the aggregates over HTTP until a signal arrives.

    The page / shows what there is, and /docs how to ask for it: rows, freshness, runs, a stream of refreshes. Needs
    the extra `serve`: pip install 'WHEEL[serve]'. With --collect it takes events, too, as `etl collect` does. SIGTERM
    ends the service with exit code 0, after the requests in hand.
    """
    settings = build(ServeSettings, given_by(ServeSettings, given))
    try:
        from etl.serving import server
    except ImportError as error:
        raise UsageError(
            f"the service needs a package that is not installed: {error.name}",
            hint="install the extra `serve`: pip install 'WHEEL[serve]'",
        ) from error
    with common.server(creates=False) as database:
        open_events = _open_events(common, database, settings) if settings.collect else None
        return server.serve(database, common.config_dir, settings, open_events)


def _open_events(
    common: Common, database: "Database", settings: ServeSettings
) -> Callable[[], AbstractContextManager["Receiver"]]:
    """Return what takes events: with the settings of `etl collect`, but the failed store and the callers of here."""
    from etl.cli.collect import command as collect
    from etl.collecting.access import Asked
    from etl.collecting.server import receiving

    parent = click.get_current_context().parent
    with collect.make_context("collect", [], parent=parent).scope(cleanup=False) as context:
        own = build(CollectSettings, given_by(CollectSettings, context.params))
    return lambda: receiving(
        database, common.config_dir, replace(own, failed_dir=settings.failed_dir), common.logs, Asked()
    )
