"""`etl dataset infer`."""

import shlex
from pathlib import Path

import click

from etl import datasets
from etl.cli.options import Common, option, print_note
from etl.inference import SAMPLE
from etl.inference.proposing import propose
from etl.ingestion.sources import encodings
from etl.ingestion.sources.naming import named


@click.command(
    "infer",
    epilog="Example: etl dataset infer exports/parcels.json.gz --name parcels --output config/datasets/parcels.toml",
)
@click.argument("source", metavar="SOURCE")
@option("--name", metavar="NAME", help="Name of the dataset. Default: made from the name of the output or the source.")
@option("--output", metavar="FILE", default="-", show_default=True, help="File to write; - for standard output.")
@option(
    "--encoding",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="Character encoding of the source, such as latin-1; auto detects UTF-8, UTF-16 and UTF-32.",
)
@option("--records", metavar="PATH", help="Path of one record, such as shipments.item. Default: detected.")
@option("--sample", type=click.IntRange(1), default=SAMPLE, show_default=True, metavar="N", help="Records to read.")
@option("--all", "look_at_all", is_flag=True, help="Read every record.")
@click.pass_obj
def command(
    common: Common,
    source: str,
    name: str | None,
    output: str,
    encoding: str,
    records: str | None,
    sample: int,
    look_at_all: bool,
) -> None:
    """Propose a dataset definition for a source, from its first records.

    Edit the definition as you need: a comment after each column describes its values. `etl dataset create` and `etl
    load` accept it unchanged.
    """
    if encoding != "auto":
        encodings.require_known(encoding)
    path = None if output == "-" else Path(output)
    sources = named(source, encoding)
    proposal = propose(
        sources,
        common.config_dir,
        name=name,
        output=path,
        records=records,
        sample=None if look_at_all else sample,
    )
    if path is None:
        click.echo(proposal.text)
        return
    dataset = datasets.read(path)
    tables = ", ".join(table.name for table in dataset.tables)
    key = f"key {', '.join(dataset.key)}" if dataset.key else "no key"
    print_note(f"{path}: {proposal.sample.records:,} records, {proposal.sample.reason}; {key}; {tables}")
    print_note(f"next: etl dataset create {dataset.name} && etl load {dataset.name} {shlex.quote(sources[0].name)}")
