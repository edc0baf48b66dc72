"""`etl key`."""

from datetime import UTC, datetime

import click

from etl.cli.groups import Group
from etl.cli.options import Common, json_option, option, parsed_age, print_json, print_text
from etl.cli.tables import Column, print_table
from etl.database.connecting import connect
from etl.serving import keys
from etl.serving.identity import ROLES, Role


@click.group("key", cls=Group)
def command() -> None:
    """Make, list and revoke the keys of `etl serve --auth keys`."""


@command.command("create", epilog="Example: etl key create 'dashboard of the warehouse' --expires 52w")
@click.argument("label")
@option(
    "--role",
    type=click.Choice(ROLES),
    default="analyst",
    show_default=True,
    help="analyst: aggregates; operator: also runs and failures; admin: everything.",
)
@option("--expires", metavar="AGE", help="How long the key is valid, such as 90d or 52w. Default: until it is revoked.")
@json_option
@click.pass_obj
def create_command(common: Common, label: str, role: Role, expires: str | None, as_json: bool) -> None:
    """Make a key and print it. It is shown once: the database has only its digest."""
    age = parsed_age(expires, "--expires") if expires is not None else None
    with common.database(creates=False) as database, connect(database, "etl:key") as connection:
        row, key = keys.create(connection, label, role, age)
    if as_json:
        print_json([vars(row) | {"key": key}])
        return
    print_text(key)


@command.command("list", epilog="Example: etl key list")
@json_option
@click.pass_obj
def list_command(common: Common, as_json: bool) -> None:
    """List the keys, without the keys themselves."""
    with common.database(creates=False) as database, connect(database, "etl:key") as connection:
        rows = keys.listed(connection)
    now = datetime.now(UTC)
    if as_json:
        print_json([vars(row) | {"state": _state(row, now)} for row in rows])
        return
    print_table(
        "keys of etl serve",
        [
            Column("key"),
            Column("role"),
            Column("state"),
            Column("created", 2),
            Column("expires", 1),
            Column("label", 3),
        ],
        [(row.id, row.role, _state(row, now), row.created_at, row.expires_at, row.label) for row in rows],
    )


@command.command("revoke", epilog="Example: etl key revoke 3f9a1c02")
@click.argument("id", metavar="KEY")
@json_option
@click.pass_obj
def revoke_command(common: Common, id: str, as_json: bool) -> None:
    """Revoke a key by the name that `etl key list` shows. Services that run refuse it at once."""
    with common.database(creates=False) as database, connect(database, "etl:key") as connection:
        label = keys.revoke(connection, id)
    if as_json:
        print_json([{"id": id, "label": label, "state": "revoked"}])
        return
    print_text(f"revoked {id} ({label})")


def _state(row: keys.KeyRow, now: datetime) -> str:
    if row.revoked_at is not None:
        return "revoked"
    return "expired" if row.expires_at is not None and row.expires_at <= now else "valid"
