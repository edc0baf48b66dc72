"""The end of a source: what became of its records, and why it ended, as `load --json` prints it (C4). Pure."""

from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from etl.ingestion.values import PolicyEffects
from etl.quick_dataclasses import dataclass

_UNKNOWN = ("unknown", "unknown_others")


@dataclass(frozen=True, kw_only=True)
class Balance:
    """What became of the records of one attempt, in records (C4).

    `unchanged` are those of the loaded records that were loaded already in the same version.
    `deleted` are the loaded records that deleted their key; None: the dataset has no such records.
    """

    read: int
    loaded: int
    unchanged: int = 0
    rejected: int
    failed: int
    skipped: int
    withheld: int
    pending: int
    deleted: int | None = None

    def document(self) -> dict[str, int]:
        """Return the counts by name, without those that the dataset does not have."""
        return {name: count for name, count in vars(self).items() if count is not None}

    def adds_up(self) -> bool:
        """Tell whether every record read is accounted for, and no other (G1)."""
        return self.missing == 0 and self.withheld >= 0

    @property
    def missing(self) -> int:
        """The records that were read and are not accounted for."""
        return self.read - self.loaded - self.rejected - self.failed - self.skipped - self.withheld


Status = Literal["loaded", "loaded_with_rejects", "already_loaded", "checked", "incomplete", "aborted", "busy"]
"""How a source ended. `checked`: a dry run judged every record that it was asked to judge, and kept none."""


@dataclass(frozen=True, kw_only=True)
class Reason:
    """A reason why records are refused: their number, and the place of the first one."""

    kind: Literal["rejected", "failed"]
    sqlstate: str | None
    table: str | None
    column: str | None
    reason: str
    count: int
    first_record: int
    first_offset: int


@dataclass(frozen=True, kw_only=True)
class EndReason:
    """Why a source ended before its end, or is not published: what is wrong, what to do, and the command to look at it.

    `sqlstate` is that of the server's error, if one was the cause.
    """

    sqlstate: str | None
    message: str
    hint: str | None
    next: str | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """The end of one source, as `load --json` prints it (C4).

    `rows_deleted` and `rows_kept` are the rows of each table that a replace deleted, and that it kept because they may
    belong to rejected records; both are empty if no replace was published.
    `doubled` are the records of a forced append whose rows an earlier run has loaded, too.
    `narrowed` are the columns, by table and name, whose type in the table changes values that fit the definition.
    `error` is what ended the source, if something did.
    """

    run: str | None
    dataset: str
    source: str
    database: str
    status: Status
    exit_code: int
    records: Balance
    rows: Mapping[str, int]
    batches: Mapping[str, int]
    bytes_read: int
    seconds: float
    failed_store: str | None
    dry_run: bool = False
    reasons: tuple[Reason, ...] = ()
    policies: PolicyEffects = field(default_factory=PolicyEffects)
    rows_deleted: Mapping[str, int] = field(default_factory=dict)
    rows_kept: Mapping[str, int] = field(default_factory=dict)
    narrowed: Mapping[str, str] = field(default_factory=dict)
    doubled: int = 0
    error: EndReason | None = None

    def document(self) -> dict[str, Any]:
        """Return the JSON object of contract C4; that of a dry run tells its reasons, too."""
        policies = self.policies.document()
        coerced = policies.pop("coerced", None)
        unknown: dict[str, Any] = {name: policies.pop(name) for name in _UNKNOWN if name in policies}
        reasons = {"reasons": [vars(reason) for reason in self.reasons]} if self.dry_run else {}
        return {
            "kind": "source",
            "run": self.run,
            "dataset": self.dataset,
            "source": self.source,
            "database": self.database,
            "status": self.status,
            "exit_code": self.exit_code,
            "dry_run": self.dry_run,
            "records": self.records.document(),
            "rows": dict(self.rows),
            "batches": dict(self.batches),
            "bytes_read": self.bytes_read,
            "seconds": round(self.seconds, 3),
            "failed_store": self.failed_store,
            **(
                {"rows_deleted": dict(self.rows_deleted), "rows_kept": dict(self.rows_kept)}
                if self.rows_deleted
                else {}
            ),
            **({"policies": policies} if policies else {}),
            **unknown,
            **({"coerced": coerced} if coerced else {}),
            **({"narrowed": dict(self.narrowed)} if self.narrowed else {}),
            **({"doubled": self.doubled} if self.doubled else {}),
            **({"error": vars(self.error)} if self.error else {}),
            **reasons,
        }
