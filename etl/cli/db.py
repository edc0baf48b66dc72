"""`etl db`."""

import os
import shutil
import subprocess
from typing import Any

import click
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq.abc import PGconn

from etl.cli import psql_arguments
from etl.cli.groups import Group
from etl.cli.options import Common, json_option, option, print_facts, print_json, print_text
from etl.cli.tables import Column, print_made, print_table
from etl.database import connecting, migrations
from etl.embedded import Server, binary
from etl.errors import DatabaseError, ExitCode, UsageError
from etl.provisioning import LeftOutError, Migrated, migrate

_MUST_BE_TLS = frozenset({b"require", b"verify-ca", b"verify-full"})
"""The values of sslmode that refuse a connection without TLS."""


@click.group("db", cls=Group)
def command() -> None:
    """Run the embedded PostgreSQL, and prepare a database for loads."""


def _server(common: Common) -> Server:
    folder = connecting.embedded_folder(common.address)
    if folder is None:
        raise UsageError(
            "this command is for the embedded server, but another database is given",
            hint="give the embedded server with --database embedded:",
        )
    return Server(folder)


@command.command("start", epilog="Example: etl db start --port 5433")
@option("--port", type=click.IntRange(1024, 65535), help="Also listen on this port of 127.0.0.1, for other programs.")
@json_option
@click.pass_obj
def start_command(common: Common, port: int | None, as_json: bool) -> None:
    """Start the embedded server and leave it running."""
    server = _server(common)
    common.announce_creation()
    server.start(port=port, keep=True)
    with common.database():
        print_facts({"running": True, "url": server.url()}, f"running: {server.url()}", as_json=as_json)


@command.command("stop", epilog="Example: etl db stop")
@json_option
@click.pass_obj
def stop_command(common: Common, as_json: bool) -> None:
    """Stop the embedded server."""
    ran = _server(common).stop()
    print_facts({"running": False, "was_running": ran}, "stopped" if ran else "was not running", as_json=as_json)


@command.command("status", epilog="Example: etl db status")
@json_option
@click.pass_obj
def status_command(common: Common, as_json: bool) -> int:
    """Show whether the database can be reached; exit code 4 if not."""
    connecting.require_existing(common.address)
    folder = connecting.embedded_folder(common.address)
    facts: dict[str, Any] = {"folder": None if folder is None else str(folder.absolute())}
    if folder is not None and not (status := Server(folder).status()).running:
        facts |= {"database": common.name, "running": False, "version": status.version}
        text = f"embedded PostgreSQL {status.version} in {folder}: stopped; any command starts it"
        print_facts(facts, text, as_json=as_json)
        return ExitCode.SUCCESS
    with common.server() as database, connecting.connect(database) as connection:
        version = connection.info.server_version // 10000
        facts |= {"database": database.name, "running": True, "version": version}
        print_facts(facts, f"{database.name}: PostgreSQL {version}, running", as_json=as_json)
    return ExitCode.SUCCESS


@command.command("url", epilog="Example: etl db url")
@option("--tcp", is_flag=True, help="Print the address over TCP, with its password.")
@json_option
@click.pass_obj
def url_command(common: Common, tcp: bool, as_json: bool) -> None:
    """Print the address of the database, if it answers; only with --tcp it has a password.

    Exit code 4: nobody answers. `etl db start` leaves the embedded server running.
    """
    connecting.require_existing(common.address)
    folder = connecting.embedded_folder(common.address)
    if folder is not None:
        server = Server(folder)
        if not server.status().running:
            raise DatabaseError(
                f"nobody answers: the embedded server in {folder.absolute()} is stopped",
                hint="etl db start leaves it running",
            )
        url = server.url(tcp=tcp)
        with connecting.connect(connecting.Database(conninfo=url, embedded=True)):
            print_facts({"url": url}, url, as_json=as_json)
        return
    with common.server() as database, connecting.connect(database) as connection:
        info = connection.info
        url = make_conninfo(host=info.host, port=info.port, user=info.user, dbname=info.dbname)
        print_facts({"url": url}, url, as_json=as_json)


@command.command("psql", epilog="Example: etl db psql -- -c 'select * from analytics.freshness'")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[STATEMENT] [-- PSQL-ARGUMENTS...]")
@click.pass_obj
def psql_command(common: Common, arguments: tuple[str, ...]) -> int:
    """Open psql on the database, or run one statement; the exit code is that of psql."""
    words = psql_arguments.with_statement(arguments)
    with common.database(creates=False) as database:
        found = conninfo_to_dict(database.conninfo)
        # Every user of the machine can read a command line, but not the environment.
        password = found.pop("password", None)
        environment = os.environ | ({"PGPASSWORD": str(password)} if password else {})
        with connecting.connect(database) as connection:
            program = _psql(found, connection.pgconn)
        address = make_conninfo("", **found)
        return subprocess.run([program, "-d", address, *words], env=environment, check=False).returncode


def _psql(address: dict[str, Any], connection: PGconn) -> str:
    """Return the installed psql, or that of the system for a connection with TLS: the installed one has no TLS.

    Raises UsageError when the address insists on TLS and the system has no psql.
    """
    program = shutil.which("psql") if connection.ssl_in_use else None
    if program is not None:
        return program
    # As the variables of libpq and a service file have it, too.
    modes = [option.val for option in connection.info if option.keyword == b"sslmode"]
    if connection.ssl_in_use and _MUST_BE_TLS.intersection(modes):
        shown = make_conninfo("", **{name: value for name, value in address.items() if name != "sslpassword"})
        raise UsageError(
            f"the psql of this installation has no TLS, which {shown} asks for",
            hint="install the psql of your system, such as the package postgresql-client; it is found by PATH",
        )
    return str(binary("psql"))


@command.command("migrate", epilog="Example: etl db migrate")
@json_option
@click.pass_obj
def migrate_command(common: Common, as_json: bool) -> None:
    """Bring the database to the state that this installation needs, and print what was made.

    A second run changes nothing.
    """
    with common.server() as database:
        try:
            _print_migrated(database.name, migrate(database, common.config_dir), as_json=as_json)
        except LeftOutError as error:
            if error.migrated is not None and error.migrated.made:
                _print_migrated(database.name, error.migrated, as_json=as_json)
            raise


def _print_migrated(name: str, migrated: Migrated, *, as_json: bool) -> None:
    latest, before = migrations.latest_migration(), migrated.before
    if as_json:
        print_json([{"database": name, "migration": latest, "migration_before": before, **vars(migrated.made)}])
        return
    print_made(migrated.made)
    change = "" if before == latest else f", before at {before}" if before else ", before at none"
    print_text(f"{name} is at migration {latest}{change}{'' if change or migrated.made else '; nothing was missing'}")


@command.command("check", epilog="Example: etl db check --json")
@json_option
@click.pass_obj
def check_command(common: Common, as_json: bool) -> int:
    """Check whether the database and its server suit loads, and print what to do; nothing is changed.

    Exit code 0: all passed, perhaps with warnings. 2: a check failed. 4: the database cannot be reached.
    """
    from etl.ingestion.constants import MAX_DEFAULT_WORKERS
    from etl.preflight import inspect

    with common.server(creates=False) as database:
        # One session for each worker, one for the load itself, and one for the precalculation after it.
        found = list(
            inspect(database, common.config_dir, connecting.embedded_folder(common.address), MAX_DEFAULT_WORKERS + 2)
        )
    if as_json:
        print_json(map(vars, found))
    else:
        rows = [(each.state, each.what, each.found, each.remedy) for each in found]
        columns = [Column("state"), *(Column(name, kind="text") for name in ("what", "found", "do"))]
        print_table("database", columns, rows)
    return ExitCode.USAGE if any(each.state == "fail" for each in found) else ExitCode.SUCCESS
