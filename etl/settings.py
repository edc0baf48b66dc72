"""Where settings and shipped files come from: the configuration folder, `etl.toml` and the installed package.

Knows files and names, no database and no command. A flag beats the environment, which beats `etl.toml`;
that order is Click's own: the values of `etl.toml` are handed to it as defaults (`etl.cli`).
"""

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

import msgspec

from etl.errors import DefinitionError, UsageError, reason_of
from etl.ingestion.constants import MAX_RECORD_BYTES

Mode = Literal["append", "merge", "replace"]
Format = Literal["auto", "array", "ndjson", "document"]
Decoder = Literal["auto", "ijson"]
OnNul = Literal["reject", "strip"]
OnDuplicate = Literal["newest", "first", "reject"]
OnUnknown = Literal["ignore", "warn", "reject"]


def shipped(name: Literal["sql", "config"]) -> Path:
    """Return the folder `sql` or `config` that belongs to this installation (wheel or checkout)."""
    inside_wheel = Path(__file__).parent / "_shipped" / name
    return inside_wheel if inside_wheel.is_dir() else Path(__file__).parent.parent / name


class FileSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The keys of `etl.toml`: the long options with `_` for `-`. An absent key leaves the option's default."""

    database: str | None = None
    log_format: Literal["auto", "console", "json"] | None = None
    log_level: Literal["debug", "info", "warning", "error"] | None = None
    mode: Mode | None = None
    format: Format | None = None
    encoding: str | None = None
    records: str | None = None
    decoder: Decoder | None = None
    atomic: bool | None = None
    allow_empty: bool | None = None
    on_nul: OnNul | None = None
    on_duplicate: OnDuplicate | None = None
    on_unknown: OnUnknown | None = None
    no_precalculate: bool | None = None
    json: bool | None = None
    workers: int | None = None
    batch_rows: int | None = None
    max_rejected: str | None = None
    max_record_bytes: int | None = None
    failed_dir: str | None = None
    metrics_file: str | None = None
    retry_attempts: int | None = None
    retry_base_seconds: float | None = None
    retry_cap_seconds: float | None = None

    def as_defaults(self) -> dict[str, Any]:
        """Return the keys that were written, without `database` (libpq's variables come before it)."""
        written: dict[str, Any] = msgspec.to_builtins(self)
        written.pop("database", None)
        if "json" in written:
            written["as_json"] = written.pop("json")
        return written


def read_file_settings(config_dir: Path) -> FileSettings:
    """Read `etl.toml` of the configuration folder, else the shipped one.

    Raises DefinitionError when it is not TOML or holds an unknown key or a value of the wrong type.
    """
    own = config_dir / "etl.toml"
    path = own if own.exists() else shipped("config") / "etl.toml"
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), FileSettings)
    except OSError as error:
        raise DefinitionError(f"cannot read {path}: {reason_of(error)}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, msgspec.ValidationError) as error:
        raise DefinitionError(f"{path}: {error}", hint="see docs/reference/settings.md for the keys") from error


@dataclass(frozen=True, kw_only=True)
class RetrySettings:
    """How often and how long a transient fault is retried: attempts in all, first and longest wait in seconds."""

    attempts: int
    base_seconds: float
    cap_seconds: float


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

    mode: Mode | None
    format: Format
    records: str | None
    decoder: Decoder
    workers: int | None
    batch_rows: int
    failed_dir: Path
    atomic: bool
    allow_empty: bool
    max_rejected: Limit
    force: bool
    precalculate: bool
    retries: RetrySettings
    max_record_bytes: int = MAX_RECORD_BYTES
    limit: int | None = None
    dry_run: bool = False
    on_nul: OnNul | None = None
    on_duplicate: OnDuplicate | None = None
    on_unknown: OnUnknown | None = None

    @property
    def policies(self) -> dict[str, str]:
        """The policies that the command names, by the option's name; they replace the definition's own."""
        policies = {name: getattr(self, name) for name in ("on_nul", "on_duplicate", "on_unknown")}
        return {name: policy for name, policy in policies.items() if policy}
