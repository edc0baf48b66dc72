"""`etl dataset evolve`."""

import click

from etl.cli import completion
from etl.cli.groups import Command
from etl.cli.options import Common, explaining_swapped, json_option, option, print_json, print_note
from etl.inference import SAMPLE
from etl.inference.proposing import propose_change
from etl.ingestion.sources.naming import named


@click.command(
    "evolve",
    cls=Command,
    epilog="Example: etl dataset evolve parcels exports/2026-11-21.json.gz | patch -p0 && etl dataset create parcels",
)
@click.argument("name", shell_complete=completion.datasets)
@click.argument("source", metavar="FILE")
@option("--records", metavar="PATH", help="Path of one record, such as shipments.item. Default: the definition's path.")
@option("--sample", type=click.IntRange(1), default=SAMPLE, show_default=True, metavar="N", help="Records to read.")
@option("--all", "look_at_all", is_flag=True, help="Read every record.")
@option("--write", "writes", is_flag=True, help="Change the definition, too.")
@json_option
@click.pass_obj
def command(
    common: Common,
    name: str,
    source: str,
    records: str | None,
    sample: int,
    look_at_all: bool,
    writes: bool,
    as_json: bool,
) -> None:
    """Propose a column for each member of a file that a definition does not know, as a unified diff.

    The diff keeps the comments of the definition; `patch -p0` applies it. Afterwards `etl dataset create` adds the
    columns to the tables. Nothing is printed if the definition knows all members.
    """
    with explaining_swapped(["dataset", "evolve"], name, [source], common.config_dir):
        change, diff = propose_change(
            named(source),
            common.config_dir,
            name=name,
            records=records,
            sample=None if look_at_all else sample,
            writes=writes,
        )
    if as_json:
        print_json([{"dataset": name, "columns": change.columns, "tables": change.tables, "diff": diff}])
        return
    click.echo(diff, nl=False)
    if not diff:
        print_note(f"{name} knows all members of the records that were read")
        return
    print_note(f"new: {', '.join((*change.columns, *change.tables))}")
    print_note(f"next: {'' if writes else 'apply the diff by patch -p0, and '}etl dataset create {name}")
