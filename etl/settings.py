"""The one list of options, and the files that hold settings: `etl.toml` and what the installed package brings.

Knows files and names, no database and no command. Each option is a field here, with its type, bounds, default and help;
the command line (`etl.cli.options`), the keys of `etl.toml` and `etl.load` are derived from the fields.
A flag beats the environment, which beats `etl.toml`; that order is Click's own: it gets the values of `etl.toml` as
defaults (`etl.cli`). Every command imports this module first, so it imports no library.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from etl.errors import DefinitionError, UsageError, reason_of
from etl.ingestion import constants
from etl.options import Group, Option, Setting, build, settings_of

Mode = Literal["append", "merge", "replace"]
Format = Literal["auto", "array", "ndjson", "document"]
Decoder = Literal["auto", "ijson"]
OnNul = Literal["reject", "strip"]
OnDuplicate = Literal["newest", "first", "reject"]
OnUnknown = Literal["ignore", "warn", "reject"]
LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]


def shipped(name: Literal["sql", "config"]) -> Path:
    """Return the folder `sql` or `config` that belongs to this installation (wheel or checkout)."""
    inside_wheel = Path(__file__).parent / "_shipped" / name
    return inside_wheel if inside_wheel.is_dir() else Path(__file__).parent.parent / name


@dataclass(frozen=True, kw_only=True)
class GlobalSettings:
    """The options before the command."""

    config_dir: Annotated[str, Option("Folder of etl.toml and datasets/.", metavar="DIR", is_in_file=False)] = (
        "./config"
    )
    database: Annotated[
        str | None,
        Option(
            "postgresql:// address or embedded:[FOLDER]; else libpq's PG* variables, else etl.toml.",
            metavar="URL",
            twins=("ETL_DATABASE_URL", "DATABASE_URL"),
        ),
    ] = None
    log_format: Annotated[
        LogFormat, Option("Format of the logs; auto is console on a terminal and JSON elsewhere.")
    ] = "auto"
    log_level: Annotated[LogLevel, Option("Least level of the logs.")] = "info"


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """The options of what a command reports, and where."""

    metrics_file: Annotated[
        Path | None,
        Option(
            "Tell Prometheus of it in this file, as node_exporter's textfile collector reads it.",
            metavar="FILE",
            read=Path,
        ),
    ] = None
    as_json: Annotated[bool, Option("Print JSON, one object per line.", key="json")] = False


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """How often and how long a transient fault is retried: attempts in all, first and longest wait in seconds."""

    attempts: Annotated[int, Option("Tries of a batch when the database has a passing fault.", least=1, most=100)] = (
        constants.RETRY_ATTEMPTS
    )
    base_seconds: Annotated[float, Option("First wait between tries, doubled each time.", least=0.001, most=600)] = (
        constants.RETRY_BASE_SECONDS
    )
    cap_seconds: Annotated[float, Option("Longest wait between tries.", least=0.001, most=3600)] = (
        constants.RETRY_CAP_SECONDS
    )


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How many records may be rejected: a count, or a share of the records read in percent."""

    count: int | None = None
    percent: float | None = None

    @classmethod
    def read(cls, text: str) -> Self:
        """Read `100` or `2.5%`.

        Raises UsageError.
        """
        match = re.fullmatch(r"([0-9]+)|([0-9]+(?:\.[0-9]+)?)%", text.strip())
        if match is None or float(match.group(2) or 0) > 100:
            raise UsageError(f"--max-rejected expects a number or a percentage such as 10%, got {text!r}")
        if match.group(1):
            return cls(count=int(match.group(1)))
        return cls(percent=float(match.group(2)))

    def is_exceeded(self, rejected: int, read: int, *, at_end: bool) -> bool:
        """Tell whether too many are rejected; a share is judged of 10,000 records, or at the end of more than 100."""
        if self.count is not None:
            return rejected > self.count
        enough = read > 100 if at_end else read >= 10_000
        return enough and rejected * 100 > (self.percent or 0.0) * read

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.count is None else str(self.count)


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """What one `load` is asked to do; the same for all of its sources."""

    mode: Annotated[Mode | None, Option("How rows meet those that are there; else the definition's.")] = None
    format: Annotated[Format, Option("Shape of the source.")] = "auto"
    encoding: Annotated[
        str,
        Option("What the source is written in, as in latin-1; auto takes UTF-8, UTF-16 and UTF-32.", metavar="NAME"),
    ] = "auto"
    records: Annotated[
        str | None,
        Option(
            "Path of one record, as in shipments.item, for each dataset in their order; else the definition's, or of"
            " several datasets NAME.item where it is item.",
            metavar="PATH[,PATH...]",
        ),
    ] = None
    workers: Annotated[
        int | None,
        Option(
            "Processes that load a source; else one for each core but one, at most 4, and fewer for a small source.",
            least=1,
            most=64,
        ),
    ] = None
    decoder: Annotated[
        Decoder,
        Option("auto sends what PostgreSQL reads as it stands; ijson converts every value. The rows are the same."),
    ] = "auto"
    batch_rows: Annotated[
        int,
        Option("Records per batch: one COPY in one transaction; the first ones have fewer.", least=1, most=1_000_000),
    ] = constants.BATCH_ROWS
    max_rejected: Annotated[
        Limit,
        Option("Stop with exit code 5 when more records are rejected of a dataset.", metavar="N|P%", read=Limit.read),
    ] = Limit(percent=10)
    max_record_bytes: Annotated[
        int,
        Option(
            "A record with more bytes ends the source with exit code 3; memory grows with it.",
            least=1 << 20,
            most=1 << 30,
        ),
    ] = constants.MAX_RECORD_BYTES
    atomic: Annotated[bool, Option("All of a source or nothing, visible at once at the end.")] = False
    allow_empty: Annotated[bool, Option("Let a replace by no record empty the dataset.")] = False
    limit: Annotated[
        int | None,
        Option(
            "Only the first N records of each source and dataset; without it the same command brings in the rest.",
            metavar="N",
            least=1,
            is_in_file=False,
        ),
    ] = None
    dry_run: Annotated[
        bool,
        Option("Judge every record as a load would, keep nothing, and tell what is refused.", is_in_file=False),
    ] = False
    on_nul: Annotated[
        OnNul | None,
        Option(
            "A record with a NUL character, which PostgreSQL cannot hold: reject it, or load it without; else the"
            " definition's."
        ),
    ] = None
    on_duplicate: Annotated[
        OnDuplicate | None,
        Option(
            "Records of one source with the same key: keep the newest, keep the first, or reject all but the first, and"
            " count them; else the definition's."
        ),
    ] = None
    on_unknown: Annotated[
        OnUnknown | None,
        Option(
            "Members that the definition does not know: pass over them, look for them in the first records of each"
            " batch and name them, or reject the record; else the definition's."
        ),
    ] = None
    precalculate: Annotated[bool, Option("Leave the aggregates as they are.")] = True
    failed_dir: Annotated[Path, Option("Folder of the failed store.", metavar="DIR", read=Path)] = Path("failed")
    force: Annotated[bool, Option("Load again what the ledger knows as loaded.", is_in_file=False, twins=())] = False
    retries: Annotated[RetrySettings, Group("retry")] = RetrySettings()

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """Return the settings with the options given by name; a dry run leaves the aggregates as they are.

        Raises UsageError for a limit that is none, TypeError for an option that is none.
        """
        settings = build(cls, given)
        return replace(settings, precalculate=settings.precalculate and not settings.dry_run)


FILE_CLASSES: tuple[type, ...] = (GlobalSettings, LoadSettings, OutputSettings)
"""The settings classes whose options may be keys of `etl.toml`."""


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """What `etl.toml` sets: the values that it holds, by key. An absent key leaves the option's default."""

    written: Mapping[str, Any]

    @property
    def database(self) -> str | None:
        """The address of the database."""
        return self.written.get("database")

    def as_defaults(self) -> dict[str, Any]:
        """Return the values by parameter of a command, without `database` (libpq's variables come before it)."""
        known = file_keys()
        return {known[key].parameter: value for key, value in self.written.items() if key != "database"}


def file_keys() -> dict[str, Setting]:
    """Return the options that `etl.toml` may set, by key: the long options with `_` for `-`."""
    options = (setting for each in FILE_CLASSES for setting in settings_of(each))
    return {setting.key: setting for setting in options if setting.option.is_in_file}


def read_file_settings(config_dir: Path) -> FileSettings:
    """Read `etl.toml` of the configuration folder, else the shipped one.

    Raises DefinitionError when it is not TOML or holds an unknown key or a value of the wrong type.
    """
    import tomllib  # noqa: PLC0415 - `etl --help` reads no file

    import msgspec  # noqa: PLC0415 - the same

    own = config_dir / "etl.toml"
    path = own if own.exists() else shipped("config") / "etl.toml"
    kinds = [(key, setting.written | None, None) for key, setting in file_keys().items()]
    struct = msgspec.defstruct("Settings", kinds, kw_only=True, forbid_unknown_fields=True, omit_defaults=True)
    try:
        read = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), struct)
    except OSError as error:
        raise DefinitionError(f"cannot read {path}: {reason_of(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise DefinitionError(f"{path}: {error}", hint="see docs/reference/settings.md for the keys") from error
    return FileSettings(written=msgspec.to_builtins(read))
