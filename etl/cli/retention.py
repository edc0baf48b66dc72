"""`etl retention`."""

import re

import click

from etl import datasets
from etl.cli import completion
from etl.cli.groups import Command
from etl.cli.options import Common, json_option, option, print_json, print_note, print_text
from etl.cli.tables import Column, print_table
from etl.errors import ExitCode, UsageError
from etl.provisioning import remove_old_partitions

_UNITS = {"d": "days", "m": "months", "y": "years"}


@click.command("retention", cls=Command, epilog="Example: etl retention shipments --keep 36m --dry-run")
@click.argument("name", shell_complete=completion.datasets)
@option("--keep", required=True, metavar="AGE", help="What is younger stays: a number with d, m or y, such as 36m.")
@option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@json_option
@click.pass_obj
def command(common: Common, name: str, keep: str, *, dry_run: bool, as_json: bool) -> int:
    """Remove the partitions of a dataset that are older, and refresh the aggregates.

    Each partition is emptied, detached and dropped by itself. After an interruption run the same command again.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})([dmy])", keep)
    if match is None:
        raise UsageError(f"expected an age such as 36m, 90d or 3y for --keep, got {keep!r}")
    dataset = datasets.find(name, common.config_dir)
    age = f"{match[1]} {_UNITS[match[2]]}"
    with common.looking() if dry_run else common.database() as database:
        removed = remove_old_partitions(database, dataset, age, common.config_dir, is_dry_run=dry_run)
    if as_json:
        print_json(vars(each) | {"dry_run": dry_run} for each in removed)
    elif not removed:
        print_text(f"no partition of {name} is older than {age}")
    else:
        columns = [Column("table"), Column("partition"), Column("first day", 1), Column("until", 1), Column("rows")]
        title = "partitions to remove" if dry_run else "removed partitions"
        print_table(
            title, columns, [(each.fact, each.name, each.first_day, each.until_day, each.rows) for each in removed]
        )
        if dry_run:
            print_note("nothing was removed: this was a dry run")
    return ExitCode.SUCCESS
