"""`etl dataset infer`."""

import shlex
from pathlib import Path
from typing import Any

import click

from etl.cli.groups import Command
from etl.cli.options import Common, json_option, option, print_json, print_note
from etl.inference import SAMPLE, Proposal
from etl.inference.proposing import propose
from etl.ingestion.sources import encodings
from etl.ingestion.sources.naming import named

_PATHS_SHOWN = 10


@click.command(
    "infer",
    cls=Command,
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
@json_option
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
    as_json: bool,
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
    if as_json:
        print_json([_facts(proposal, path)])
        return
    if path is None:
        click.echo(proposal.text)
    else:
        _print_written(proposal, path, sources[0].name)
    _print_findings(proposal)


def _facts(proposal: Proposal, path: Path | None) -> dict[str, Any]:
    """Return a proposal for a program: the text of the definition is in the file, if there is one."""
    dataset, sample = proposal.dataset, proposal.sample
    return {
        "dataset": dataset.name,
        "path": None if path is None else str(path),
        "records": sample.records,
        "is_all": sample.is_all,
        "found": sample.reason,
        "key": list(dataset.key),
        "left_out": dict(sample.left_out),
        "tables": [table.name for table in dataset.tables],
        "definition": proposal.text if path is None else None,
    }


def _print_written(proposal: Proposal, path: Path, source: str) -> None:
    """Print the key and the tables of the definition in a file, and the next command."""
    dataset, sample = proposal.dataset, proposal.sample
    tables = ", ".join(table.name for table in dataset.tables)
    key = f"key {', '.join(dataset.key)}" if dataset.key else "no key"
    print_note(f"{path}: {sample.records:,} records, {sample.reason}; {key}; {tables}")
    print_note(f"next: etl dataset create {dataset.name} && etl load {dataset.name} {shlex.quote(source)}")


def _print_findings(proposal: Proposal) -> None:
    """Print what the records do not have: the key is a guess, and what is around them is not loaded."""
    dataset, sample = proposal.dataset, proposal.sample
    if dataset.key and dataset.key != ("record_key",):
        seen = f"{sample.records + sample.further:,}"
        print_note(f"the key {', '.join(dataset.key)} is unique in the {seen} records that were looked at: check it")
    if sample.left_out:
        paths = list(sample.left_out)
        more = f" and {len(paths) - _PATHS_SHOWN:,} more paths" if len(paths) > _PATHS_SHOWN else ""
        print_note(
            f"left out, because it is outside of {dataset.records}: {', '.join(paths[:_PATHS_SHOWN])}{more}"
            f" (values: {sum(sample.left_out.values()):,}); the definition lists them"
        )
    if sample.rest_fault:
        print_note(f"the rest of the source cannot be read: {sample.rest_fault}")
