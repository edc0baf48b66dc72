"""`etl db`."""

import os
import subprocess

import click
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from etl.cli.options import Common, json_option, option, print_json, print_table
from etl.database import connecting, migrations
from etl.embedded import Server, binary
from etl.errors import ExitCode, UsageError
from etl.provisioning import migrate


@click.group("db")
def command() -> None:
    """Run the embedded PostgreSQL, and bring a database to what the loads need."""


def _server(common: Common) -> Server:
    folder = connecting.embedded_folder(common.address)
    if folder is None:
        raise UsageError(
            "this command is for the embedded server, and another database is named",
            hint="--database embedded: names it",
        )
    return Server(folder)


@command.command("start", epilog="Example: etl db start --port 5433")
@option("--port", type=click.IntRange(1024, 65535), help="Listen on 127.0.0.1, too, for other programs.")
@click.pass_obj
def start_command(common: Common, port: int | None) -> None:
    """Start the embedded server and leave it running."""
    server = _server(common)
    server.start(port=port, keep=True)
    with common.database():
        click.echo(f"running: {server.url()}")


@command.command("stop", epilog="Example: etl db stop")
@click.pass_obj
def stop_command(common: Common) -> None:
    """Stop the embedded server."""
    click.echo("stopped" if _server(common).stop() else "was not running")


@command.command("status", epilog="Example: etl db status")
@click.pass_obj
def status_command(common: Common) -> int:
    """Tell whether the database can be reached; exit code 4 when it cannot."""
    folder = connecting.embedded_folder(common.address)
    if folder is not None and not (status := Server(folder).status()).running:
        click.echo(f"embedded PostgreSQL {status.version} in {folder}: stopped; any command starts it")
        return ExitCode.SUCCESS
    with common.server() as database, connecting.connect(database) as connection:
        click.echo(f"{database.name}: PostgreSQL {connection.info.server_version // 10000}, running")
    return ExitCode.SUCCESS


@command.command("url", epilog="Example: etl db url")
@option("--tcp", is_flag=True, help="The address over TCP, with the password it needs.")
@click.pass_obj
def url_command(common: Common, tcp: bool) -> None:
    """Print an address of the database; without --tcp it holds no password."""
    if connecting.embedded_folder(common.address) is not None:
        click.echo(_server(common).url(tcp=tcp))
        return
    with common.server() as database, connecting.connect(database) as connection:
        info = connection.info
        click.echo(make_conninfo(host=info.host, port=info.port, user=info.user, dbname=info.dbname))


@command.command("psql", epilog="Example: etl db psql -- -c 'select * from analytics.freshness'")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- PSQL-ARGUMENTS...]")
@click.pass_obj
def psql_command(common: Common, arguments: tuple[str, ...]) -> int:
    """Open psql on the database; its exit code is this command's."""
    with common.database() as database:
        found = conninfo_to_dict(database.conninfo)
        # A command line can be read by every user of the machine, the environment cannot.
        password = found.pop("password", None)
        environment = os.environ | ({"PGPASSWORD": str(password)} if password else {})
        address = make_conninfo("", **found)
        return subprocess.run([binary("psql"), "-d", address, *arguments], env=environment, check=False).returncode


@command.command("migrate", epilog="Example: etl db migrate")
@click.pass_obj
def migrate_command(common: Common) -> None:
    """Bring the database to what this installation needs; running it again changes nothing."""
    with common.server() as database:
        migrate(database, common.config_dir)
        click.echo(f"{database.name} is at migration {migrations.latest_migration()}")


@command.command("check", epilog="Example: etl db check --json")
@json_option
@click.pass_obj
def check_command(common: Common, as_json: bool) -> int:
    """Check what loads need of the database and its server, and tell what to do; nothing is changed.

    Exit code 0 also with warnings, 2 when something fails, 4 when the database cannot be reached.
    """
    from etl.ingestion.constants import MAX_DEFAULT_WORKERS
    from etl.preflight import inspect

    with common.server() as database:
        # Each worker has a session, the load itself one, and so has what follows it.
        found = list(
            inspect(database, common.config_dir, connecting.embedded_folder(common.address), MAX_DEFAULT_WORKERS + 2)
        )
    if as_json:
        print_json(map(vars, found))
    else:
        rows = [(each.state, each.what, each.found, each.remedy) for each in found]
        print_table("database", ["", "what", "found", "do"], rows)
    return ExitCode.USAGE if any(each.state == "fail" for each in found) else ExitCode.SUCCESS
