"""`etl init`."""

import shlex
from pathlib import Path

import click

from etl import initial
from etl.cli.options import Common, option


@click.command("init", epilog="Example: etl init --dataset parcels")
@option("--dataset", default="parcels", show_default=True, metavar="NAME", help="Name of the dataset to begin with.")
@click.pass_obj
def command(common: Common, dataset: str) -> None:
    """Write a configuration folder of your own: etl.toml, one dataset and a sample; nothing is overwritten."""
    written = initial.write(common.config_dir, dataset)
    sample = shlex.quote(str(written[-1]))
    # A folder of another name has to be named each time.
    etl = "etl" if common.config_dir == Path("config") else f"etl --config-dir {shlex.quote(str(common.config_dir))}"
    for path in written:
        click.echo(f"wrote {path}")
    click.echo(
        f"""\
next, put in what your records hold, and then:
  {etl} dataset check {dataset} {sample}
  {etl} db migrate
  {etl} load {dataset} {sample}"""
    )
