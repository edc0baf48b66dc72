"""`etl serve`."""

from typing import Any

import click

from etl.cli.groups import Command
from etl.cli.options import Common, given_by, settings_options
from etl.errors import UsageError
from etl.options import build
from etl.settings import ServeSettings


@click.command("serve", cls=Command, epilog="Example: etl serve --port 8080")
@settings_options(ServeSettings)
@click.pass_obj
def command(common: Common, /, **given: Any) -> int:
    """Serve the aggregates over HTTP until a signal arrives.

    The page / shows what there is, and /docs how to ask for it: rows, freshness, runs, a stream of refreshes. Needs
    the extra `serve`: pip install 'WHEEL[serve]'. SIGTERM ends the service with exit code 0, after the requests in
    hand.
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
        return server.serve(database, common.config_dir, settings)
