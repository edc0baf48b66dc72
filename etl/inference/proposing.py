"""A proposed definition gets a name that is free, and is written to its file."""

import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from etl import datasets
from etl.datasets import schemas
from etl.errors import UsageError, cannot_write
from etl.inference import Proposal, evolve, infer
from etl.inference.evolving import Evolution
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
    """Propose a definition from one source, and write it to the output, with the schema it names, if there is one.

    Raises UsageError when there is not one source, the name is none, or the output exists; and the errors of `infer`.
    """
    _require_one(sources)
    known = datasets.readable(config_dir)
    chosen = _name(name, output, sources[0], {each.name for each in known})
    if output and output.exists():
        raise UsageError(f"{output} exists already", hint="give another file with --output, or remove it")
    used_names = frozenset(table.name for dataset in known for table in dataset.tables)
    proposal = infer(sources[0], name=chosen, records=records, sample=sample, used_names=used_names)
    folder = output.parent if output else config_dir / "datasets"
    proposal = replace(proposal, text=f"{schemas.line('definition', config_dir, folder)}\n{proposal.text}")
    if output:
        _write(f"{proposal.text}\n", output)
        schemas.write(config_dir)
    return proposal


def propose_change(
    sources: Sequence[Source], config_dir: Path, *, name: str, records: str | None, sample: int | None, writes: bool
) -> tuple[Evolution, str]:
    """Propose the change of a definition by which it knows all members of one source; return it, and its diff.

    `writes`: change the file. A definition of the installation is changed by a new file in the configuration folder.
    Raises UsageError when there is not one source, and the errors of `evolve`.
    """
    _require_one(sources)
    dataset = datasets.find(name, config_dir)
    path = Path(dataset.path)
    text = path.read_text(encoding="utf-8")
    others = [other for other in datasets.readable(config_dir) if other.name != name]
    used_names = frozenset(table.name for other in others for table in other.tables)
    change = evolve(sources[0], dataset, text, records=records, sample=sample, used_names=used_names)
    _require_readable(change.text, path.name)
    own = config_dir / "datasets" / path.name
    is_own = own.exists()
    diff = change.diff(text if is_own else "", str(own) if is_own else "/dev/null", str(own))
    if not change.columns and not change.tables:
        return change, ""
    if writes:
        _write(change.text, own)
    return change, diff


def _require_one(sources: Sequence[Source]) -> None:
    """Raise UsageError when there is not one source."""
    if len(sources) != 1:
        example = f", such as {shlex.quote(sources[0].name)}" if sources else ""
        raise UsageError(f"expected one source, got {len(sources)}", hint=f"name one of the files{example}")


def _write(text: str, path: Path) -> None:
    """Write a text that reads as a definition; a file of this name is never there in part."""
    part = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _require_readable(text, path.name)
        try:
            part.write_text(text, encoding="utf-8")
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise cannot_write(str(path), error) from error


def _require_readable(text: str, name: str) -> None:
    """Raise DefinitionError if a text is no definition for a file of this name."""
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder) / name
        tried.write_text(text, encoding="utf-8")
        datasets.read(tried)


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
