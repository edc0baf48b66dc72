"""The one list of options, and the files with settings: `etl.toml` and the files of the installed package.

Knows files and names, no database and no command. Each option is a field here, with its type, bounds, default and help;
the command line (`etl.cli.options`), the keys of `etl.toml` and `etl.load` are derived from the fields.
A flag beats the environment, which beats `etl.toml`. Click applies that order: it gets the values of `etl.toml` as
defaults (`etl.cli`). `etl --help` imports this module, so it imports no library.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from etl.errors import DefinitionError, UsageError, reason_of
from etl.ingestion import constants
from etl.options import Group, Option, Setting, build, settings_of
from etl.quick_dataclasses import dataclass

Mode = Literal["append", "merge", "replace"]
Format = Literal["auto", "array", "ndjson", "document"]
Decoder = Literal["auto", "ijson"]
OnNul = Literal["reject", "strip"]
OnDuplicate = Literal["newest", "first", "reject"]
OnUnknown = Literal["ignore", "warn", "reject"]
LogFormat = Literal["auto", "console", "json"]
Auth = Literal["none", "keys", "jwt"]
CollectAuth = Literal["none", "keys"]
CollectPart = Literal["all", "accept", "load"]
LogLevel = Literal["debug", "info", "warning", "error"]


class Url(str):
    """The URL of a folder in an object store, where a folder may be one."""

    __slots__ = ()


def folder_or_url(address: str) -> Path | Url:
    """Return what an option names: the path of a folder, or the URL of one."""
    return Url(address) if "://" in address else Path(address)


def shipped(name: Literal["sql", "config"]) -> Path:
    """Return the folder `sql` or `config` that belongs to this installation (wheel or checkout)."""
    inside_wheel = Path(__file__).parent / "_shipped" / name
    return inside_wheel if inside_wheel.is_dir() else Path(__file__).parent.parent / name


def lineage_is_on() -> bool:
    """Return whether the client of OpenLineage has a configuration, in one of the places in which it looks for it."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    names = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT")
    if any(value and name.startswith(names) for name, value in os.environ.items()):
        return True
    folders = [Path(), *(Path(home, ".openlineage") for home in [os.environ.get("HOME")] if home)]
    # An account may have no access to its own home folder.
    return any(os.access(folder / "openlineage.yml", os.R_OK) for folder in folders)


@dataclass(frozen=True, kw_only=True)
class GlobalSettings:
    """The options before the command."""

    config_dir: Annotated[
        str,
        Option("Folder that holds etl.toml and datasets/.", metavar="DIR", is_in_file=False, twins=("ETL_CONFIG_DIR",)),
    ] = "./config"
    database: Annotated[
        str | None,
        Option(
            "Address: postgresql://... or embedded:[FOLDER]. Default: libpq's PG* variables, then etl.toml.",
            metavar="URL",
            twins=("ETL_DATABASE_URL", "DATABASE_URL"),
        ),
    ] = None
    log_format: Annotated[
        LogFormat,
        Option(
            "json: all of stderr is JSON; auto: console on a terminal, elsewhere JSON, but errors and notes are text."
        ),
    ] = "auto"
    log_level: Annotated[
        LogLevel | None, Option("Lowest level that is logged. Default: warning where a bar is drawn, else info.")
    ] = None


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """The options of the output of a command."""

    metrics_file: Annotated[
        Path | None,
        Option(
            "Write metrics for Prometheus to this file, in the format of node_exporter's textfile collector.",
            metavar="FILE",
            read=Path,
        ),
    ] = None
    as_json: Annotated[bool, Option("Print JSON, one object per line.", key="json")] = False


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """How a transient fault is retried: attempts in all, first and longest wait in seconds."""

    attempts: Annotated[
        int, Option("Attempts of a batch when the database has a transient fault.", least=1, most=100)
    ] = constants.RETRY_ATTEMPTS
    base_seconds: Annotated[float, Option("First wait between attempts, doubled each time.", least=0.001, most=600)] = (
        constants.RETRY_BASE_SECONDS
    )
    cap_seconds: Annotated[float, Option("Longest wait between attempts.", least=0.001, most=3600)] = (
        constants.RETRY_CAP_SECONDS
    )


@dataclass(frozen=True, kw_only=True)
class Limit:
    """How many records may be rejected, or rows deleted: a number, or a share of all of them in percent.

    `is_default`: nobody gave this limit.
    """

    count: int | None = None
    percent: float | None = None
    is_default: bool = field(default=False, compare=False)

    @classmethod
    def read(cls, text: str, option: str = "--max-rejected") -> Self:
        """Read `100` or `2.5%`.

        Raises UsageError.
        """
        match = re.fullmatch(r"([0-9]+)|([0-9]+(?:\.[0-9]+)?)%", text.strip())
        if match is None or float(match.group(2) or 0) > 100:
            raise UsageError(f"{option} expects a number or a percentage such as 10%, got {text!r}")
        if match.group(1):
            return cls(count=int(match.group(1)))
        return cls(percent=float(match.group(2)))

    def is_exceeded(self, rejected: int, read: int, *, at_end: bool, of_any_size: bool = False) -> bool:
        """Return whether too many records are rejected.

        A share is judged from 10,000 records on, and at the end of more than 100, or of any number if `of_any_size`.
        """
        least_at_end = 1 if of_any_size else constants.SHARE_RECORDS_AT_END
        return self._is_above(rejected, read, least_at_end if at_end else constants.SHARE_RECORDS)

    def is_exceeded_by_deletion(self, deleted: int, rows: int) -> bool:
        """Return whether too many of the rows of a table would be deleted; a share is judged from 1,000 rows on."""
        return self._is_above(deleted, rows, constants.SHARE_ROWS)

    def _is_above(self, part: int, whole: int, least: int) -> bool:
        """Return whether the part is larger than the limit; a share is judged of a whole of at least `least`."""
        if self.count is not None:
            return part > self.count
        return whole >= least and part * 100 > (self.percent or 0.0) * whole

    def __str__(self) -> str:
        return f"{self.percent:g}%" if self.count is None else str(self.count)


@dataclass(frozen=True, kw_only=True)
class LoadSettings:
    """The options of one `load`; they are the same for all of its sources."""

    mode: Annotated[Mode | None, Option("What happens to rows that exist already. Default: the definition's mode.")] = (
        None
    )
    format: Annotated[Format, Option("Structure of the source.")] = "auto"
    encoding: Annotated[
        str,
        Option(
            "Character encoding of the source, such as latin-1; auto detects UTF-8, UTF-16 and UTF-32.", metavar="NAME"
        ),
    ] = "auto"
    records: Annotated[
        str | None,
        Option(
            "Path of one record, such as shipments.item; one path for each dataset. Default: the definition's path, or"
            " NAME.item for several datasets whose path is item.",
            metavar="PATH[,PATH...]",
        ),
    ] = None
    workers: Annotated[
        int | None,
        Option(
            "Processes that load a source. Default: one less than the cores, at most 4, and fewer for a small source.",
            least=1,
            most=64,
        ),
    ] = None
    executor: Annotated[
        str,
        Option(
            "Who loads the pieces of a source: local, processes of this command; dask:local, a Dask cluster of this"
            " machine; dask:tcp://HOST:PORT, the workers of a Dask scheduler. Dask needs the extra `dask`.",
            metavar="NAME",
        ),
    ] = "local"
    decoder: Annotated[
        Decoder,
        Option("auto sends unchanged what PostgreSQL can read; ijson converts every value. The rows are the same."),
    ] = "auto"
    batch_rows: Annotated[
        int,
        Option(
            "Records per batch: one COPY in one transaction. The first batches are smaller.", least=1, most=1_000_000
        ),
    ] = constants.BATCH_ROWS
    max_rejected: Annotated[
        Limit,
        Option("Stop with exit code 5 when more records of a dataset are rejected.", metavar="N|P%", read=Limit.read),
    ] = Limit(percent=10, is_default=True)
    max_deleted: Annotated[
        Limit,
        Option(
            "Publish nothing and end with exit code 5 when a replace would delete more rows of a table. A share is"
            " judged from 1,000 rows on.",
            metavar="N|P%",
            read=partial(Limit.read, option="--max-deleted"),
        ),
    ] = Limit(percent=50, is_default=True)
    max_record_bytes: Annotated[
        int,
        Option(
            "A larger record ends the source with exit code 3. Memory use grows with this limit.",
            least=1 << 20,
            most=1 << 30,
        ),
    ] = constants.MAX_RECORD_BYTES
    atomic: Annotated[bool, Option("Load all of a source or nothing; all rows become visible together at the end.")] = (
        False
    )
    allow_empty: Annotated[
        bool,
        Option(
            "Allow a replace without any record, which empties the dataset; and, in other modes, a load into tables"
            " whose rows are gone: known sources are not loaded again."
        ),
    ] = False
    linger: Annotated[
        float,
        Option(
            "Load what a pipe has given so far when no more bytes come for so many seconds; 0: wait for a whole batch.",
            metavar="SECONDS",
            least=0,
        ),
    ] = 1.0
    follow: Annotated[
        bool,
        Option(
            "Load what is written to a file, a named pipe or - as it comes, until a signal arrives, as tail -F reads.",
            is_in_file=False,
        ),
    ] = False
    trust_mtime: Annotated[
        bool,
        Option(
            "Take a file for loaded, without reading it, if a load with this option has read a file of the same name,"
            " size and time of change to its end."
        ),
    ] = False
    limit: Annotated[
        int | None,
        Option(
            "Load only the first N records of each source and dataset. The same command without it loads the rest.",
            metavar="N",
            least=1,
            is_in_file=False,
        ),
    ] = None
    dry_run: Annotated[
        bool,
        Option(
            "Check every record as a load would, load nothing, and report the records that would be refused.",
            is_in_file=False,
        ),
    ] = False
    on_nul: Annotated[
        OnNul | None,
        Option(
            "What to do with a record that has a NUL character, which PostgreSQL cannot store: reject it, or strip the"
            " character. Default: the definition's policy."
        ),
    ] = None
    on_duplicate: Annotated[
        OnDuplicate | None,
        Option(
            "What to do with records of one source that have the same key: keep the newest, keep the first, or reject"
            " all but the first. They are counted. Default: the definition's policy."
        ),
    ] = None
    on_unknown: Annotated[
        OnUnknown | None,
        Option(
            "What to do with members that the definition does not know: ignore them, count the records that have each"
            " (warn), or reject the record. Default: the definition's policy."
        ),
    ] = None
    # On by default, so the option is --no-precalculate.
    precalculate: Annotated[bool, Option("Do not refresh the aggregates.")] = True
    failed_dir: Annotated[
        Path | Url,
        Option(
            "Folder of the failed store, or its URL in an object store (s3://BUCKET/FOLDER, gs://, az://).",
            metavar="DIR",
            read=folder_or_url,
        ),
    ] = Path("failed")
    force: Annotated[
        bool,
        Option(
            "Load the source again although it is loaded already; in append its rows are doubled.",
            is_in_file=False,
        ),
    ] = False
    retries: Annotated[RetrySettings, Group("retry")] = RetrySettings()
    retry_for: Annotated[
        float,
        Option(
            "Seconds for which a database that cannot be reached at the start is tried again; 0: the command ends at"
            " once.",
            least=0,
            most=86_400,
        ),
    ] = constants.RETRY_FOR_SECONDS

    @property
    def policies(self) -> dict[str, str]:
        """The policies that the command names, by the option's name; they replace the definition's own."""
        policies = {name: getattr(self, name) for name in ("on_nul", "on_duplicate", "on_unknown")}
        return {name: policy for name, policy in policies.items() if policy}

    @classmethod
    def read(cls, given: Mapping[str, Any]) -> Self:
        """Return the settings with the given options, by name; a dry run does not refresh the aggregates.

        Raises UsageError for a wrong limit, TypeError for an unknown option.
        """
        settings = build(cls, given)
        return replace(settings, precalculate=settings.precalculate and not settings.dry_run)


@dataclass(frozen=True, kw_only=True)
class ServeSettings:
    """The options of `serve`; their keys are in the table [serve], and their variables begin with `ETL_SERVE_`."""

    host: Annotated[
        str,
        Option("Address to listen on. Others than this machine's own need keys.", twins=("ETL_SERVE_HOST",)),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Option("Port to listen on; 0: a free port. The log names it.", least=0, most=65_535, twins=("ETL_SERVE_PORT",)),
    ] = 8080
    auth: Annotated[
        Auth,
        Option(
            "Who may ask. none: everyone on this machine; keys: who has a key (etl key create); jwt: who has a token of"
            " your identity provider.",
            twins=("ETL_SERVE_AUTH",),
        ),
    ] = "none"
    connections: Annotated[
        int,
        Option("Connections to the database at most.", least=1, most=200, twins=("ETL_SERVE_CONNECTIONS",)),
    ] = 8
    statement_timeout: Annotated[
        float,
        Option(
            "Seconds after which the database ends a query.",
            least=0.01,
            most=600,
            twins=("ETL_SERVE_STATEMENT_TIMEOUT",),
        ),
    ] = 10.0
    cache_mb: Annotated[
        int,
        Option("MB of answers that are kept in memory; 0: none.", least=0, most=65_536, twins=("ETL_SERVE_CACHE_MB",)),
    ] = 64
    cache: Annotated[
        str | None,
        Option(
            "Redis or Valkey in which replicas share kept answers, such as redis://cache:6379/0.",
            metavar="URL",
            twins=("ETL_SERVE_CACHE",),
        ),
    ] = None
    subscribers: Annotated[
        int, Option("Subscribers of /v1/stream at most.", least=0, most=100_000, twins=("ETL_SERVE_SUBSCRIBERS",))
    ] = 1_000
    token_secret: Annotated[
        Path | None,
        Option(
            "File with the secret that signs tokens for keys; replicas share it. Default: a new secret at each start.",
            metavar="FILE",
            read=Path,
            twins=("ETL_SERVE_TOKEN_SECRET",),
        ),
    ] = None
    jwt_secret: Annotated[
        Path | None,
        Option(
            "File with the secret that verifies tokens (HS256).",
            metavar="FILE",
            read=Path,
            twins=("ETL_SERVE_JWT_SECRET",),
        ),
    ] = None
    jwt_keys: Annotated[
        str | None,
        Option(
            "File or https address with the public keys (JWKS) that verify tokens (RS256, ES256).",
            metavar="FILE|URL",
            twins=("ETL_SERVE_JWT_KEYS",),
        ),
    ] = None
    jwt_issuer: Annotated[
        str | None, Option("Issuer that a token must name.", metavar="NAME", twins=("ETL_SERVE_JWT_ISSUER",))
    ] = None
    jwt_audience: Annotated[
        str | None, Option("Audience that a token must name.", metavar="NAME", twins=("ETL_SERVE_JWT_AUDIENCE",))
    ] = None
    jwt_claim: Annotated[
        str, Option("Claim of a token that names roles.", metavar="NAME", twins=("ETL_SERVE_JWT_CLAIM",))
    ] = "role"
    jwt_roles: Annotated[
        str | None,
        Option(
            "What roles in tokens may: ROLE of the service and, after a colon, the role of the database to read as.",
            metavar="NAME=ROLE[:DBROLE],...",
            twins=("ETL_SERVE_JWT_ROLES",),
        ),
    ] = None
    rate_limit: Annotated[
        float,
        Option(
            "Requests per second of one key or user at most, on average; 0: any number.",
            least=0,
            most=1_000_000,
            twins=("ETL_SERVE_RATE_LIMIT",),
        ),
    ] = 100.0
    cors_origins: Annotated[
        str | None,
        Option(
            "Origins whose pages may ask in a browser, such as https://bi.example.com.",
            metavar="ORIGIN,...",
            twins=("ETL_SERVE_CORS_ORIGINS",),
        ),
    ] = None
    allow_replay: Annotated[
        bool,
        Option(
            "Let operators replay files of the failed store by POST. The user of the service must be allowed to load.",
            twins=("ETL_SERVE_ALLOW_REPLAY",),
        ),
    ] = False
    collect: Annotated[
        bool,
        Option(
            "Take events, too: POST /v1/events/DATASET of operators, with the spool and the limits of [collect].",
            twins=("ETL_SERVE_COLLECT",),
        ),
    ] = False
    failed_dir: Annotated[
        Path | Url,
        Option(
            "Folder of the failed store, or its URL in an object store, for --allow-replay and --collect.",
            metavar="DIR",
            read=folder_or_url,
            twins=("ETL_SERVE_FAILED_DIR",),
        ),
    ] = Path("failed")
    # On by default, so the option is --no-access-log.
    access_log: Annotated[bool, Option("Do not log the requests.", twins=("ETL_SERVE_NO_ACCESS_LOG",))] = True


FILE_CLASSES: tuple[type, ...] = (GlobalSettings, LoadSettings, OutputSettings)
"""The settings classes whose options may be keys of `etl.toml`."""


@dataclass(frozen=True, kw_only=True)
class CollectSettings:
    """The options of `collect`; their keys are in the table [collect], their variables begin with `ETL_COLLECT_`."""

    host: Annotated[
        str,
        Option("Address to listen on. Others than this machine's own need keys.", twins=("ETL_COLLECT_HOST",)),
    ] = "127.0.0.1"
    port: Annotated[
        int,
        Option(
            "Port to listen on; 0: a free port. The log names it.", least=0, most=65_535, twins=("ETL_COLLECT_PORT",)
        ),
    ] = 8090
    auth: Annotated[
        CollectAuth,
        Option(
            "Who may send events. none: everyone on this machine; keys: who has a key of an operator (etl key create).",
            twins=("ETL_COLLECT_AUTH",),
        ),
    ] = "none"
    buffer: Annotated[
        str,
        Option(
            "Where accepted events wait. spool: on the disk of this machine; redis://HOST:PORT/NUMBER: in Redis or"
            " Valkey; embedded: in a Valkey server that the collector starts.",
            metavar="spool|embedded|URL",
            twins=("ETL_COLLECT_BUFFER",),
        ),
    ] = "spool"
    accept_volatile: Annotated[
        bool,
        Option(
            "Use a server whose settings may lose events that were acknowledged.",
            twins=("ETL_COLLECT_ACCEPT_VOLATILE",),
        ),
    ] = False
    direct: Annotated[
        bool,
        Option(
            "Load events at once, and acknowledge them after the commit: no buffer, and no answer while the database"
            " is away.",
            twins=("ETL_COLLECT_DIRECT",),
        ),
    ] = False
    part: Annotated[
        CollectPart,
        Option(
            "What this process does with the events in Redis or Valkey. accept: others load them; load: others accept"
            " them; all: both.",
            twins=("ETL_COLLECT_PART",),
        ),
    ] = "all"
    spool: Annotated[
        Path,
        Option(
            "Folder of accepted events, on a disk that keeps what is flushed.",
            metavar="DIR",
            read=Path,
            twins=("ETL_COLLECT_SPOOL",),
        ),
    ] = Path(".etl/spool")
    failed_dir: Annotated[
        Path | Url,
        Option(
            "Folder of the failed store, or its URL in an object store.",
            metavar="DIR",
            read=folder_or_url,
            twins=("ETL_COLLECT_FAILED_DIR",),
        ),
    ] = Path("failed")
    body_mb: Annotated[
        int, Option("MB of events in one request at most.", least=1, most=64, twins=("ETL_COLLECT_BODY_MB",))
    ] = 8
    backlog_mb: Annotated[
        int,
        Option(
            "MB of the buffer of one dataset; with more, requests are asked to come again.",
            least=1,
            most=1 << 20,
            twins=("ETL_COLLECT_BACKLOG_MB",),
        ),
    ] = 1024
    keep_mb: Annotated[
        int | None,
        Option(
            "MB of loaded events of one stream that stay in the buffer at most; default: a quarter of the backlog.",
            least=0,
            most=1 << 20,
            twins=("ETL_COLLECT_KEEP_MB",),
        ),
    ] = None
    keep_seconds: Annotated[
        float,
        Option(
            "Seconds for which an event that is loaded stays in the buffer, as long as --keep-mb allows it.",
            least=0,
            most=31_536_000,
            twins=("ETL_COLLECT_KEEP_SECONDS",),
        ),
    ] = 600.0
    refresh_seconds: Annotated[
        float,
        Option(
            "The aggregates are refreshed at most so often, in seconds; 0: not here, but by etl listen.",
            least=0,
            most=86_400,
            twins=("ETL_COLLECT_REFRESH_SECONDS",),
        ),
    ] = 0.5
    rate_limit: Annotated[
        float,
        Option(
            "Requests per second of one key at most, on average; 0: any number.",
            least=0,
            most=1_000_000,
            twins=("ETL_COLLECT_RATE_LIMIT",),
        ),
    ] = 0.0


@dataclass(frozen=True, kw_only=True)
class FileSettings:
    """The values that `etl.toml` sets, by key; an option without a key keeps its default.

    `written` are the keys outside a table, `load`, `serve` and `collect` those of the tables of these names.
    """

    written: Mapping[str, Any]
    load: Mapping[str, Any] = field(default_factory=dict)
    serve: Mapping[str, Any] = field(default_factory=dict)
    collect: Mapping[str, Any] = field(default_factory=dict)

    @property
    def database(self) -> str | None:
        """The address of the database."""
        return self.written.get("database")

    def as_defaults(self, command: str = "load") -> dict[str, Any]:
        """Return the values for a command by its parameters, without `database`: libpq's variables come before it.

        A key outside a table applies to every command that has the option, as it did before there were tables.
        """
        known = file_keys()
        if command in SERVICES:
            given = self.serve if command == "serve" else self.collect
            return {setting.parameter: given[key] for key, setting in service_keys(command).items() if key in given}
        own = self.load if command == "load" else {}
        if command == "failed":
            own = {key: value for key, value in self.load.items() if is_of_failed(known[key])}
        values = {**self.written, **own}
        return {known[key].parameter: value for key, value in values.items() if key != "database"}


def file_keys() -> dict[str, Setting]:
    """Return the options that `etl.toml` may set, by key: the long option with `_` for `-`."""
    options = (setting for each in FILE_CLASSES for setting in settings_of(each))
    return {setting.key: setting for setting in options if setting.option.is_in_file}


SERVICES: Mapping[str, type] = {"serve": ServeSettings, "collect": CollectSettings}
"""The commands whose options are in a table of their own alone."""


def service_keys(command: str) -> dict[str, Setting]:
    """Return the options of `serve` or `collect` by their key in the table of its name."""
    return {setting.key: setting for setting in settings_of(SERVICES[command])}


def is_of_failed(setting: Setting) -> bool:
    """Return whether a key of the table `[load]`, and its environment twin, are for `etl failed`, too."""
    return setting.name in {"failed_dir", "retry_for"} or setting.group == "retries"


def twins() -> frozenset[str]:
    """Return the environment variables that set an option of some command."""
    classes = (*FILE_CLASSES, *SERVICES.values())
    return frozenset(twin for each in classes for setting in settings_of(each) for twin in setting.twins)


def file_struct() -> Any:
    """Return the type of the content of `etl.toml`, made from the options."""
    import msgspec  # noqa: PLC0415 - `etl --help` does without it

    kinds = {key: (key, setting.written | None, None) for key, setting in file_keys().items()}
    before_commands = {setting.key for setting in settings_of(GlobalSettings)}
    of_load = [kind for key, kind in kinds.items() if key not in before_commands]
    load = msgspec.defstruct("Load", of_load, kw_only=True, forbid_unknown_fields=True, omit_defaults=True)
    tables: list[tuple[str, Any, None]] = [("load", load | None, None)]
    for command in SERVICES:
        of_table = [(key, setting.written | None, None) for key, setting in service_keys(command).items()]
        table = msgspec.defstruct(
            command.capitalize(), of_table, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
        )
        tables.append((command, table | None, None))
    return msgspec.defstruct(
        "Settings",
        [*kinds.values(), *tables],
        kw_only=True,
        forbid_unknown_fields=True,
        omit_defaults=True,
    )


def read_file_settings(config_dir: Path) -> FileSettings:
    """Read `etl.toml` of the configuration folder, else the shipped one.

    Raises DefinitionError when it is not TOML, or holds an unknown key, a value of the wrong type or a key twice.
    """
    import tomllib  # noqa: PLC0415 - `etl --help` needs neither

    import msgspec  # noqa: PLC0415 - the same

    own = config_dir / "etl.toml"
    path = own if own.exists() else shipped("config") / "etl.toml"
    try:
        read = msgspec.to_builtins(msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), file_struct()))
    except OSError as error:
        raise DefinitionError(f"cannot read {path}: {reason_of(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise DefinitionError(f"{path}: {error}", hint="see docs/reference/settings.md for the keys") from error
    of_commands = {name: read.pop(name, None) or {} for name in ("load", *SERVICES)}
    settings = FileSettings(written=read, **of_commands)
    if twice := sorted(settings.written.keys() & settings.load.keys()):
        raise DefinitionError(
            f"{path}: {twice[0]} is set twice, outside a table and in [load]", hint="remove one of the two lines"
        )
    return settings
