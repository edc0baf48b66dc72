"""The arguments of the functions: checked before anything is read, because not every caller uses a type checker.

No message has a value of an argument, which may be a record.
"""

import inspect
import io
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypedDict, TypeVar, get_type_hints

import msgspec

from etl.errors import UsageError
from etl.ingestion.sources import encodings, naming, remote
from etl.ingestion.sources.given import FileBytes, Readable, RecordLines
from etl.ingestion.values import Source, printable_path
from etl.options import settings_of
from etl.settings import Decoder, Format, LoadSettings, Mode, OnDuplicate, OnNul, OnUnknown

F = TypeVar("F", bound=Callable[..., Any])

AnySource = str | os.PathLike[str] | Readable | Iterable[Mapping[str, Any]]
"""A source: a path or another name of it, an open file, or the records themselves."""

# Several processes need `if __name__ == "__main__":` in a script, so a program must ask for them; so it must for waits.
_DEFAULTS: dict[str, Any] = {"workers": 1, "retry_for": 0.0}

_JSON_TEXT = re.compile(r"\s*(\{|\[\s*[\[{\"\]])")

_FRAMES = {
    "pandas": 'df.astype(object).where(df.notna(), None).to_dict("records")',
    "polars": "df.iter_rows(named=True)",
    "pyarrow": "table.to_pylist()",
}
_EXCHANGED = ("__dataframe__", "__arrow_c_stream__", "__arrow_c_array__")


class ReplayOptions(TypedDict, total=False):
    """The options of `replay` for type checkers; `LoadSettings` has their help texts, bounds and defaults."""

    precalculate: bool
    failed_dir: str | Path
    retry_attempts: int
    retry_base_seconds: float
    retry_cap_seconds: float
    retry_for: float


class LoadOptions(ReplayOptions, total=False):
    """The options of `load` for type checkers: all of `LoadSettings`."""

    mode: Mode | None
    format: Format
    encoding: str
    records: str | None
    workers: int | None
    executor: str
    decoder: Decoder
    batch_rows: int
    max_rejected: int | str
    max_deleted: int | str
    max_record_bytes: int
    atomic: bool
    allow_empty: bool
    linger: float
    follow: bool
    trust_mtime: bool
    limit: int | None
    dry_run: bool
    on_nul: OnNul | None
    on_duplicate: OnDuplicate | None
    on_unknown: OnUnknown | None
    force: bool


def with_options(typed: type) -> Callable[[F], F]:
    """Add the options and their defaults to the signature, so that `help` and notebooks show them."""
    kinds = get_type_hints(typed)
    options = [
        inspect.Parameter(
            setting.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=_DEFAULTS.get(setting.name, setting.default_written),
            annotation=kinds[setting.name],
        )
        for setting in settings_of(LoadSettings)
        if setting.name in kinds
    ]

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        *named, _ = signature.parameters.values()
        vars(function)["__signature__"] = signature.replace(parameters=[*named, *options])
        return function

    return decorate


def settings_from(given: Mapping[str, Any], allowed: type | None = None) -> LoadSettings:
    """Return the settings with the given options.

    Raises UsageError for a value that the command line refuses, TypeError for an option that there is not, or that
    `allowed` does not have.
    """
    if allowed is not None and (unknown := sorted(given.keys() - get_type_hints(allowed).keys())):
        raise TypeError(f"unexpected option {unknown[0]!r}")
    given = {**_DEFAULTS, **given}
    _require_expected(given)
    settings = LoadSettings.read(given)
    if settings.encoding != "auto":
        encodings.require_known(settings.encoding)
    return settings


def require_kinds(*, texts: Mapping[str, Any], paths: Mapping[str, Any]) -> None:
    """Raise UsageError for an argument of another type: a record in its place must not get into a message."""
    for expected, kinds, arguments in (("a text", str, texts), ("a path", str | os.PathLike, paths)):
        for name, argument in arguments.items():
            for each in argument if isinstance(argument, tuple) else [argument]:
                if each is not None and not isinstance(each, kinds):
                    raise UsageError(f"{name}: expected {expected}, got a value of type {type(each).__name__}")


def require_positive(name: str, number: Any) -> float | None:
    """Return a number above 0, or None.

    Raises UsageError for anything else.
    """
    if number is None:
        return None
    if isinstance(number, bool) or not isinstance(number, int | float) or not number > 0:
        raise UsageError(f"{name}: expected a number above 0")
    return number


def _require_expected(given: Mapping[str, Any]) -> None:
    """Raise UsageError for a word or number that the command line refuses."""
    texts = [setting.name for setting in settings_of(LoadSettings) if setting.kind is str]
    require_kinds(
        texts={name: given[name] for name in texts if name in given}, paths={"failed_dir": given.get("failed_dir")}
    )
    for setting in settings_of(LoadSettings):
        if setting.name not in given or not (setting.choices or setting.kind in {int, float}):
            continue
        bounds = msgspec.Meta(ge=setting.option.least, le=setting.option.most)
        expected: Any = setting.kind if setting.choices else Annotated[setting.kind, bounds]
        try:
            msgspec.convert(given[setting.name], expected | None if setting.is_optional else expected)
        except msgspec.ValidationError as error:
            raise UsageError(f"{setting.name}: {error}") from error


def sources_of(arguments: Sequence[AnySource], settings: LoadSettings, name: str | None = None) -> list[Source]:
    """Return the sources that the arguments name or are; `name` is that of a file object or of records.

    Raises UsageError for an argument that is no source, and for options that contradict it.
    """
    require_kinds(texts={"source_name": name}, paths={})
    if not arguments:
        raise UsageError("no source is named")
    if name is not None and (len(arguments) > 1 or isinstance(arguments[0], str | os.PathLike)):
        raise UsageError("source_name names one file object, or one iterable of records")
    return [each for argument in arguments for each in _sources(argument, settings, name)]


def _sources(argument: Any, settings: LoadSettings, name: str | None) -> list[Source]:
    if isinstance(argument, str | os.PathLike):
        path = os.fspath(argument)
        if not isinstance(path, str):
            raise UsageError("source: expected a path as text, got one as bytes")
        _require_no_text(path)
        return naming.named(path, settings.encoding)
    _require_source(argument)
    if callable(getattr(argument, "read", None)):
        return [_file(argument, settings, name)]
    _require_no_paths(argument)
    for option, value, default in (
        ("encoding", settings.encoding, "auto"),
        ("format", settings.format, "auto"),
        ("records", settings.records, None),
    ):
        if value != default and (option, value) != ("format", "ndjson"):
            raise UsageError(f"{option} describes bytes, and the source is an iterable of records")
    shown = name or "-"
    return [Source(name=shown, path=None, given=RecordLines(argument, shown), is_lines=True)]


def _file(file: Any, settings: LoadSettings, name: str | None) -> Source:
    if getattr(file, "closed", False) is True:
        raise UsageError("source: the file object is closed")
    if inspect.iscoroutinefunction(file.read):
        raise UsageError("source: the file object is asynchronous", hint="open it by open(), or give its path")
    if settings.encoding != "auto" and isinstance(file, io.TextIOBase):
        raise UsageError(
            "encoding describes bytes, and the file object gives text", hint='open it as bytes: open(path, "rb")'
        )
    own = getattr(file, "name", None)
    if name is None and isinstance(own, str | os.PathLike):
        own = os.fspath(own)
        name = remote.printable(own) if "://" in own else printable_path(own)
    shown = name or "-"
    return Source(name=shown, path=None, encoding=settings.encoding, given=FileBytes(file, shown))


def _require_no_text(path: str) -> None:
    """Raise UsageError for JSON in the place of a path."""
    if not _JSON_TEXT.match(path):
        return
    try:
        exists = Path(path).exists()
    except (OSError, ValueError):
        exists = False
    if not exists:
        raise UsageError(
            "source: expected a path, got a text that looks like JSON",
            hint="io.StringIO(text) is a file object, json.loads(text) gives records",
        )


def _require_source(argument: Any) -> None:
    """Raise UsageError for what is neither a file object nor an iterable of records."""
    kind = type(argument)
    package = kind.__module__.partition(".")[0]
    hint: str | None
    if isinstance(argument, bytes | bytearray | memoryview):
        hint = "io.BytesIO(data) is a file object"
    elif isinstance(argument, Mapping):
        hint = "a list with it is a source of one record: [record]"
    elif any(hasattr(kind, name) for name in _EXCHANGED) or kind.__name__ == "LazyFrame":
        hint = f"give its rows: {_FRAMES.get(package, 'an iterable of dicts')}"
    elif hasattr(argument, "__aiter__"):
        hint = "collect the records of an asynchronous iterable first: [record async for record in records]"
    elif hasattr(argument, "__iter__") or callable(getattr(argument, "read", None)):
        return
    else:
        hint = "call the function: its result is the iterable" if callable(argument) else None
    raise UsageError(
        f"source: expected a path, a file object or an iterable of records, got a value of type {kind.__name__}",
        hint=hint,
    )


def _require_no_paths(argument: Iterable[Any]) -> None:
    """Raise UsageError for a list of paths."""
    if isinstance(argument, list | tuple | set | frozenset) and any(
        isinstance(each, str | os.PathLike) for each in argument
    ):
        raise UsageError(
            f"source: expected records, got a {type(argument).__name__} of paths or texts",
            hint="several paths are several arguments: etl.load(dataset, *paths)",
        )
