"""`etl dataset infer`."""

import re
import shlex
from pathlib import Path
from typing import Any

import click

from etl import datasets
from etl.cli.groups import Command
from etl.cli.options import Common, json_option, option, print_json, print_note
from etl.errors import UsageError, cannot_write
from etl.inference import SAMPLE, Proposal, infer
from etl.inference.identifiers import LONGEST, Names, snake_case
from etl.ingestion.sources import encodings
from etl.ingestion.sources.naming import named

_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{LONGEST - 1}}}")
_ENDINGS = re.compile(r"(\.(json|jsonl|ndjson|geojson|jsonld|txt|gz|bz2|xz|zst|zip))+$", re.IGNORECASE)


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
    found = named(source, encoding)
    if len(found) != 1:
        raise UsageError(f"expected one source, got {len(found)}", hint="name one of the files")
    path = None if output == "-" else Path(output)
    known = datasets.readable(common.config_dir)
    chosen = _name(name, path, found[0].name, {each.name for each in known})
    if path and path.exists():
        raise UsageError(f"{path} exists already", hint="give another file with --output, or remove it")
    proposal = infer(
        found[0],
        name=chosen,
        records=records,
        sample=None if look_at_all else sample,
        used_names=frozenset(table.name for dataset in known for table in dataset.tables),
    )
    if path is not None:
        _write(proposal, path)
    if as_json:
        print_json([_facts(proposal, path)])
    elif path is None:
        click.echo(proposal.text)
    else:
        _print_written(proposal, path)
        print_note(f"next: etl dataset create {chosen} && etl load {chosen} {shlex.quote(found[0].name)}")


def _facts(proposal: Proposal, path: Path | None) -> dict[str, Any]:
    """Return what a program needs of a proposal: the text of the definition is in the file, if there is one."""
    dataset, sample = proposal.dataset, proposal.sample
    return {
        "dataset": dataset.name,
        "path": None if path is None else str(path),
        "records": sample.records,
        "is_all": sample.is_all,
        "found": sample.reason,
        "key": list(dataset.key),
        "tables": [table.name for table in dataset.tables],
        "definition": proposal.text if path is None else None,
    }


def _write(proposal: Proposal, path: Path) -> None:
    """Write the proposed definition to a file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{proposal.text}\n", encoding="utf-8")
    except OSError as error:
        raise cannot_write(str(path), error) from error


def _print_written(proposal: Proposal, path: Path) -> None:
    """Print the key and the tables of the definition in a file."""
    dataset = datasets.read(path)
    tables = ", ".join(table.name for table in dataset.tables)
    key = f"key {', '.join(dataset.key)}" if dataset.key else "no key"
    print_note(f"{path}: {proposal.sample.records:,} records, {proposal.sample.reason}; {key}; {tables}")


def _name(given: str | None, output: Path | None, source: str, taken: set[str]) -> str:
    """Return the name of the dataset: the given one, that of the output, or a free one made from the source's."""
    name = given or (output.stem if output else None)
    if name is None and source == "-":
        raise UsageError("records from standard input have no name", hint="give the dataset a name with --name")
    name = name or Names(taken).new([_ENDINGS.sub("", Path(source).name)])
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"expected a name of letters, digits and _, at most {LONGEST} long, got {name!r}",
            hint=f"--name {snake_case([name])}",
        )
    if output and output.name != f"{name}.toml":
        raise UsageError(f"expected an output with the name {name}.toml, like the dataset, got {output.name}")
    return name
