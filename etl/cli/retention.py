"""`etl retention`."""

import re

import click

from etl import datasets
from etl.cli import completion
from etl.cli.groups import Command
from etl.cli.options import Common, json_option, option, print_json, print_note, print_text
from etl.cli.tables import Column, print_table
from etl.errors import ExitCode, UsageError
from etl.exporting.exports import Format
from etl.retention import Kept, remove_old_partitions

_UNITS = {"d": "days", "m": "months", "y": "years"}


@click.command("retention", cls=Command, epilog="Example: etl retention shipments --keep 36m --dry-run")
@click.argument("name", shell_complete=completion.datasets)
@option("--keep", required=True, metavar="AGE", help="What is younger stays: a number with d, m or y, such as 36m.")
@option("--export", "to", metavar="DIR|URL", help="Export the rows first: a folder, or its URL: s3://, gs:// or az://.")
@option(
    "--format",
    type=click.Choice(["parquet", "csv", "arrow"]),
    default="parquet",
    show_default=True,
    help="Format of the exported files.",
)
@option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@json_option
@click.pass_obj
def command(
    common: Common, name: str, keep: str, *, to: str | None, format: Format, dry_run: bool, as_json: bool
) -> int:
    """Remove the partitions of a dataset that are older, and refresh the aggregates.

    Each partition is exported (with --export, to a folder of its name), emptied, detached and dropped by itself. After
    an interruption run the same command again.
    """
    match = re.fullmatch(r"([1-9][0-9]{0,4})([dmy])", keep)
    if match is None:
        raise UsageError(f"expected an age such as 36m, 90d or 3y for --keep, got {keep!r}")
    dataset = datasets.find(name, common.config_dir)
    age = f"{match[1]} {_UNITS[match[2]]}"
    with common.looking() if dry_run else common.database() as database:
        kept = Kept(to=to, format=format) if to else None
        removed = remove_old_partitions(database, dataset, age, common.config_dir, kept=kept, is_dry_run=dry_run)
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
