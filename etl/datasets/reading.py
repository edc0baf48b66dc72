"""The TOML files of definitions: their folders, and how one file is read."""

import difflib
import re
import tomllib
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import msgspec

from etl.datasets.definition import Column, Condition, Dataset, PartitionEvery, Table
from etl.datasets.problems import problems
from etl.datasets.types import ALIASES, SYNONYMS, TYPES, type_of
from etl.errors import DefinitionError, reason_of
from etl.settings import Mode, OnDuplicate, OnNul, OnUnknown, shipped

_INTERNAL = frozenset({"name", "other_path"})
_UNKNOWN = re.compile(r"(?:unknown field `|Invalid enum value ')([^`']+)[`']")


_Conditions = dict[str, str | bool | int | float | list[str | bool | int | float]]


class TableDocument(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A table as a file has it."""

    name: str
    columns: dict[str, str | dict[str, Any]]
    each: str | list[str] = []
    where: _Conditions = {}
    index: list[list[str]] = []
    comment: str | None = None
    history: bool = False
    partition_by: str | None = None
    partition_every: PartitionEvery = "month"
    partition_hash: Annotated[int, msgspec.Meta(ge=2, le=1024)] | None = None


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A definition as a file has it."""

    name: str
    table: list[dict[str, Any]]
    records: str = "item"
    mode: Mode = "append"
    key: list[str] = []
    newest_by: str | None = None
    on_nul: OnNul = "reject"
    on_duplicate: OnDuplicate | None = None
    on_unknown: OnUnknown = "warn"
    delete_if: _Conditions = {}
    comment: str | None = None


def folders(config_dir: Path) -> tuple[Path, Path, Path]:
    """Return the folders of definitions: the user's, the shipped one, and that of the definitions of the industry."""
    shipped_folder = shipped("config") / "datasets"
    return config_dir / "datasets", shipped_folder, shipped_folder / "industry"


def names(config_dir: Path) -> list[str]:
    """Return the names of all defined datasets, sorted."""
    return _names(folders(config_dir))


def default_names(config_dir: Path) -> list[str]:
    """Return the names, sorted, of the datasets whose tables every migrated database has: all but the industry's."""
    return _names(folders(config_dir)[:2])


def _names(directories: Iterable[Path]) -> list[str]:
    return sorted({path.stem for folder in directories for path in folder.glob("*.toml")})


def find(name: str, config_dir: Path) -> Dataset:
    """Return the definition called `name`.

    Raises DefinitionError if there is no such definition, or if it is wrong.
    """
    known = names(config_dir)
    for folder in folders(config_dir):
        path = folder / f"{name}.toml"
        if name in known and path.is_file():
            return read(path)
    hint = _did_you_mean(name, known) or f"known datasets: {', '.join(known)}"
    raise DefinitionError(f"no dataset is called {name!r}", hint=hint)


def look(config_dir: Path) -> tuple[list[Dataset], list[DefinitionError]]:
    """Return all valid definitions, and what is wrong with the others; a wrong file hinders no other dataset."""
    valid, wrong = [], []
    for name in names(config_dir):
        try:
            valid.append(find(name, config_dir))
        except DefinitionError as error:
            wrong.append(error)
    return valid, wrong


def readable(config_dir: Path) -> list[Dataset]:
    """Return all valid definitions; the command that uses a wrong one reports it."""
    return look(config_dir)[0]


def read(path: Path) -> Dataset:
    """Read and validate one definition.

    Raises DefinitionError; its message names the file, and the table and the column of the problem.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DefinitionError(f"cannot read {path}: {reason_of(error)}") from error
    except UnicodeDecodeError as error:
        raise DefinitionError(f"{path}: {error}") from error
    return _parsed(path, text)


@lru_cache(maxsize=256)
def _parsed(path: Path, text: str) -> Dataset:
    """Return the definition in a file with this text; a command may ask for it several times."""
    try:
        content = tomllib.loads(text)
        document = msgspec.convert(content, Document)
        tables = tuple(_table(raw, f"{path}: table {number}") for number, raw in enumerate(document.table, 1))
    except msgspec.ValidationError as error:
        raise DefinitionError(f"{path}: {error}", hint=_proposal(error, Document.__struct_fields__)) from error
    except tomllib.TOMLDecodeError as error:
        raise DefinitionError(f"{path}: {error}") from error
    dataset = Dataset(
        name=document.name,
        records=document.records,
        mode=document.mode,
        key=tuple(document.key),
        newest_by=document.newest_by,
        tables=tables,
        on_nul=document.on_nul,
        on_duplicate=document.on_duplicate,
        on_unknown=document.on_unknown,
        path=str(path),
    )
    for problem in problems(dataset, path):
        raise DefinitionError(f"{path}: {problem}")
    if document.delete_if:
        dataset = _with_deletions(dataset, _conditions(document.delete_if), path)
    if dataset.has_history:
        _require_history(dataset, path)
    if any(table.partition_by is not None or table.partition_hash is not None for table in tables):
        _require_partitions(dataset, path)
    return dataset


def _require_partitions(dataset: Dataset, path: Path) -> None:
    from etl.datasets import partitions  # noqa: PLC0415 - most tables are not partitioned

    for problem in partitions.problems(dataset):
        raise DefinitionError(f"{path}: {problem}")


def _require_history(dataset: Dataset, path: Path) -> None:
    from etl.datasets import histories  # noqa: PLC0415 - most tables keep no history

    for problem in histories.problems(dataset):
        raise DefinitionError(f"{path}: {problem}")


def _with_deletions(dataset: Dataset, conditions: tuple[Condition, ...], path: Path) -> Dataset:
    from etl.datasets import deletions  # noqa: PLC0415 - the records of most datasets delete nothing

    for problem in deletions.problems(dataset, conditions):
        raise DefinitionError(f"{path}: {problem}")
    return deletions.with_deletions(dataset, conditions)


def _conditions(parts: _Conditions) -> tuple[Condition, ...]:
    return tuple(
        Condition(path=path, values=tuple(values) if isinstance(values, list) else (values,))
        for path, values in parts.items()
    )


def _table(raw: dict[str, Any], where: str) -> Table:
    try:
        document = msgspec.convert(raw, TableDocument)
    except msgspec.ValidationError as error:
        raise DefinitionError(f"{where}: {error}", hint=_proposal(error, TableDocument.__struct_fields__)) from error
    where = f"{where.rsplit(':', 1)[0]}: table {document.name}"
    return Table(
        name=document.name,
        columns=tuple(_column(name, options, where) for name, options in document.columns.items()),
        each=(document.each,) if isinstance(document.each, str) else tuple(document.each),
        where=_conditions(document.where),
        index=tuple(tuple(names) for names in document.index),
        comment=document.comment,
        history=document.history,
        partition_by=document.partition_by,
        partition_every=document.partition_every,
        partition_hash=document.partition_hash,
    )


def _column(name: str, options: str | dict[str, Any], where: str) -> Column:
    document = {"type": options} if isinstance(options, str) else dict(options)
    for option in document:
        if option in _INTERNAL:
            raise DefinitionError(f"{where}, column {name}: unknown option `{option}`")
    try:
        column = msgspec.convert(document, Column)
    except msgspec.ValidationError as error:
        known = (*TYPES, *(option for option in Column.__struct_fields__ if option not in _INTERNAL))
        raise DefinitionError(f"{where}, column {name}: {error}", hint=_proposal(error, known)) from error
    type_ = _type(column.type, f"{where}, column {name}")
    return msgspec.structs.replace(column, type=type_, name=name, path=column.path or name)


def _type(word: str, where: str) -> str:
    """Return the name of a type as the definition keeps it. The server judges those that this tool does not know."""
    word = " ".join(word.split())
    name = ALIASES.get(word.lower(), word)
    if name.lower() in SYNONYMS:
        raise DefinitionError(f"{where}: no type is called {name!r}", hint=f"did you mean {SYNONYMS[name.lower()]}?")
    try:
        type_of(name)
    except ValueError as error:
        raise DefinitionError(f"{where}: {error}", hint=_did_you_mean(name, TYPES)) from error
    return name


def _proposal(error: msgspec.ValidationError, known: Iterable[str]) -> str | None:
    """Return a hint with the known word that an unknown word resembles, or None."""
    match = _UNKNOWN.search(str(error))
    if match is None:
        return None
    return _did_you_mean(match[1], known)


def _did_you_mean(word: str, known: Iterable[str]) -> str | None:
    close = difflib.get_close_matches(word.lower(), list(known), n=1)
    return f"did you mean {close[0]}?" if close else None
