"""A proposed definition gets a name that is free, and is written to its file."""

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from etl import datasets
from etl.errors import UsageError, cannot_write
from etl.inference import Proposal, infer
from etl.inference.identifiers import LONGEST, Names, ascii_name
from etl.ingestion.values import Source

_NAME = re.compile(rf"[A-Za-z_][A-Za-z0-9_]{{0,{LONGEST - 1}}}")
_ENDINGS = re.compile(r"(\.(json|jsonl|ndjson|geojson|jsonld|txt|gz|bz2|xz|zst|zip))+$", re.IGNORECASE)


def propose(
    sources: Sequence[Source],
    config_dir: Path,
    *,
    name: str | None,
    output: Path | None,
    records: str | None,
    sample: int | None,
) -> Proposal:
    """Propose a definition from one source, and write it to the output if there is one.

    Raises UsageError when there is not one source, the name is none, or the output exists; and the errors of `infer`.
    """
    if len(sources) != 1:
        raise UsageError(f"expected one source, got {len(sources)}", hint="name one of the files")
    known = datasets.readable(config_dir)
    chosen = _name(name, output, sources[0], {each.name for each in known})
    if output and output.exists():
        raise UsageError(f"{output} exists already", hint="give another file with --output, or remove it")
    used_names = frozenset(table.name for dataset in known for table in dataset.tables)
    proposal = infer(sources[0], name=chosen, records=records, sample=sample, used_names=used_names)
    if output:
        _write(proposal, output)
    return proposal


def _write(proposal: Proposal, path: Path) -> None:
    """Write a proposal that reads as a definition; a file of this name is never there in part."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            tried = Path(folder) / path.name
            tried.write_text(f"{proposal.text}\n", encoding="utf-8")
            datasets.read(tried)
        try:
            part.write_text(f"{proposal.text}\n", encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(str(path), error) from error


def _name(given: str | None, output: Path | None, source: Source, taken: set[str]) -> str:
    """Return the name of the dataset: the given one, that of the output, or a free one made from the source's."""
    name = given or (output.stem if output else None)
    if name is None and source.name == "-":
        if source.given is not None:
            raise UsageError("the source has no name", hint='give the dataset a name, as in name="parcels"')
        raise UsageError(
            "records from standard input have no name",
            hint="give the dataset a name: --name NAME, or --output NAME.toml",
        )
    name = name or Names(taken).new([ascii_name(_ENDINGS.sub("", Path(source.name).name))])
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"expected a name of letters, digits and _, at most {LONGEST} long, got {name!r}",
            hint=f"--name {ascii_name(name)}",
        )
    if output and output.name != f"{name}.toml":
        raise UsageError(
            f"expected an output with the name {name}.toml, like the dataset, got {output.name}",
            hint=f"--output {output.with_name(f'{name}.toml')}",
        )
    return name
