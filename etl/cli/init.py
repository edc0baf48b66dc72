"""`etl init`."""

import shlex
from pathlib import Path

import click

from etl import initial
from etl.cli.groups import Command
from etl.cli.options import Common, json_option, option, print_json, print_text


@click.command("init", cls=Command, epilog="Example: etl init --dataset parcels")
@option("--dataset", default="parcels", show_default=True, metavar="NAME", help="Name of the first dataset.")
@json_option
@click.pass_obj
def command(common: Common, dataset: str, as_json: bool) -> None:
    """Write a new configuration folder: etl.toml, one dataset and a sample. Existing files are kept."""
    written = initial.write(common.config_dir, dataset)
    sample = shlex.quote(str(written[-1]))
    # A folder with another name must be given each time.
    etl = "etl" if common.config_dir == Path("config") else f"etl --config-dir {shlex.quote(str(common.config_dir))}"
    commands = [f"{etl} dataset check {dataset} {sample}", f"{etl} db migrate", f"{etl} load {dataset} {sample}"]
    if as_json:
        print_json([{"dataset": dataset, "written": [str(path) for path in written], "next": commands}])
        return
    for path in written:
        print_text(f"wrote {path}")
    click.echo("next, adapt the definition to your records, then run:")
    for line in commands:
        click.echo(f"  {line}")
