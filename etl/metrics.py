"""Metrics of the commands for Prometheus: one text file in the format of node_exporter's textfile collector.

Several commands and datasets share one file: each command replaces its own metrics and keeps the others.
"""

import fcntl
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Literal, NamedTuple, Self

import psycopg
import structlog

from etl import queries
from etl.database.connecting import Database, connect
from etl.errors import DONE, DatabaseError, EtlError, ExitCode, UsageError, reason_of, sqlstate_of
from etl.ingestion.summary import Summary

_SQL = queries.load("metrics")

log = structlog.get_logger(__name__)

Command = Literal["load", "replay", "precalculate", "listen"]


class Metric(NamedTuple):
    """The meaning of a metric, and its labels."""

    meaning: str
    labels: tuple[str, ...]


_OF_COMMAND = ("command", "dataset")

_MOST_MEMBERS = 20
"""So many unknown members have a metric of their own, because each is a time series."""

METRICS: Mapping[str, Metric] = {
    "etl_last_run_timestamp_seconds": Metric("When the command last ended.", _OF_COMMAND),
    "etl_last_success_timestamp_seconds": Metric(
        "When the command last ended with exit code 0 or 1: all records are loaded or in the failed store.", _OF_COMMAND
    ),
    "etl_last_exit_code": Metric("Exit code of the last command.", _OF_COMMAND),
    "etl_last_error": Metric(
        "Exit code of an error that ended the last command, or a source of it, with the reason.",
        (*_OF_COMMAND, "sqlstate", "reason"),
    ),
    "etl_last_duration_seconds": Metric("How long the last command took.", _OF_COMMAND),
    "etl_last_records": Metric("Records of the last command by outcome.", (*_OF_COMMAND, "outcome")),
    "etl_last_unchanged_records": Metric(
        "Loaded records of the last command that were loaded already in the same version.", _OF_COMMAND
    ),
    "etl_last_unknown_members": Metric(
        "Records that have a member which the definition does not know, by member; of the rarer ones the sum, with an"
        " empty name.",
        (*_OF_COMMAND, "member"),
    ),
    "etl_last_rows": Metric("Rows that the last command sent, by table.", (*_OF_COMMAND, "table")),
    "etl_last_bytes": Metric("Bytes of decompressed sources that the last command read.", _OF_COMMAND),
    "etl_last_batches": Metric("Batches of the last command by outcome.", (*_OF_COMMAND, "outcome")),
    "etl_last_retries": Metric("Retries of batches in the last command.", _OF_COMMAND),
    "etl_pending_records": Metric("Records that are pending in the failed store.", ("dataset",)),
    "etl_aggregate_refreshed_timestamp_seconds": Metric("When the aggregate was last refreshed.", ("aggregate",)),
    "etl_aggregate_pending_buckets": Metric("Buckets that the next refresh recomputes.", ("aggregate",)),
}
"""All metrics by name. Alerts and dashboards use these names."""

_Samples = dict[str, dict[tuple[str, ...], float]]


def require_writable(path: Path) -> None:
    """Check that a metrics file can be written.

    Raises UsageError when it cannot.
    """
    probe = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.is_dir():
            raise IsADirectoryError(21, "it is a folder")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UsageError(
            f"the metrics file {path} cannot be written: {reason_of(error)}",
            hint="name another by --metrics-file or ETL_METRICS_FILE; its folder must exist",
        ) from error


class Report:
    """The metrics of one command: a context that writes the file when the command ends, in whatever way.

    The command sets `exit_code`; an error that ends the command sets its own. If the file cannot be written then, that
    is a warning only: the work is done, and its exit code is more important.
    """

    def __init__(self, path: Path | None, command: Command, datasets: str = "") -> None:
        """`datasets` are separated by commas, as on the command line of a load."""
        self.exit_code: int = ExitCode.SUCCESS
        self._path = path
        self._command = command
        self._datasets = frozenset(name.strip() for name in datasets.split(","))
        self._samples: _Samples = {}
        self._finished: dict[str, float] = {}
        self._began = time.time()

    def __enter__(self) -> Self:
        if self._path is not None:
            require_writable(self._path)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if isinstance(error, EtlError):
            self.exit_code = error.exit_code
            self.note_error(error)
        elif error is not None:
            self.exit_code = ExitCode.SIGINT if isinstance(error, KeyboardInterrupt) else ExitCode.INTERNAL_FAULT
        self.write()

    def withdraw(self) -> None:
        """Write no metrics: this use of the command is no work that somebody monitors."""
        self._path = None

    def count(self, dataset: str, outcomes: Mapping[str, int]) -> None:
        """Add records of a dataset by outcome."""
        for outcome, count in outcomes.items():
            self._add("etl_last_records", dataset, count, outcome)

    def count_sources(self, summaries: Sequence[Summary]) -> None:
        """Add the records, rows, batches and bytes of sources."""
        for summary in summaries:
            of_loaded = {"pending", "unchanged"}
            outcomes = {name: n for name, n in summary.records.document().items() if name not in of_loaded}
            self.count(summary.dataset, outcomes)
            self._add("etl_last_unchanged_records", summary.dataset, summary.records.unchanged)
            members, others = summary.policies.frequent_unknown(_MOST_MEMBERS)
            for member, count in (members | ({"": others} if others else {})).items():
                self._add("etl_last_unknown_members", summary.dataset, count, member)
            for table, rows in summary.rows.items():
                self._add("etl_last_rows", summary.dataset, rows, table)
            for outcome in ("loaded", "failed"):
                self._add("etl_last_batches", summary.dataset, summary.batches[outcome], outcome)
            self._add("etl_last_retries", summary.dataset, summary.batches["retried"])
            self._add("etl_last_bytes", summary.dataset, summary.bytes_read)
            if (end := summary.error) is not None:
                self._note_error(summary.dataset, summary.exit_code, end.sqlstate, end.message)

    def note_error(self, error: EtlError) -> None:
        """Keep an error of the command as a whole, which is one of each of its datasets."""
        for dataset in self._datasets:
            self._note_error(dataset, error.exit_code, sqlstate_of(error), str(error))

    def _note_error(self, dataset: str, exit_code: int, sqlstate: str | None, reason: str) -> None:
        errors = self._samples.setdefault("etl_last_error", {})
        errors[self._command, dataset, sqlstate or "", reason] = exit_code

    def _add(self, name: str, dataset: str, value: float, *more: str) -> None:
        values = self._samples.setdefault(name, {})
        labels = (self._command, dataset, *more)
        values[labels] = values.get(labels, 0) + value

    def look(self, connection: psycopg.Connection) -> None:
        """Read the present state of the database: pending records, and how fresh the aggregates are."""
        if self._path is None:
            return
        pending: dict[tuple[str, ...], float] = {}
        refreshed: dict[tuple[str, ...], float] = {}
        buckets: dict[tuple[str, ...], float] = {}
        try:
            for dataset, count, finished_at in connection.execute(_SQL["datasets"]):
                pending[(dataset,)] = float(count)
                if finished_at is not None:
                    self._finished[dataset] = finished_at
            for aggregate, refreshed_at, count in connection.execute(_SQL["aggregates"]):
                buckets[(aggregate,)] = float(count)
                refreshed[(aggregate,)] = refreshed_at or 0.0
        except psycopg.Error as error:  # The file keeps the values of an earlier command.
            log.warning("metrics_incomplete", sqlstate=error.sqlstate)
            return
        self._samples["etl_pending_records"] = pending
        self._samples["etl_aggregate_refreshed_timestamp_seconds"] = refreshed
        self._samples["etl_aggregate_pending_buckets"] = buckets

    def look_at(self, database: Database) -> None:
        """Read the state of a database through a connection of its own."""
        if self._path is None:
            return
        try:
            with connect(database) as connection:
                self.look(connection)
        except (DatabaseError, UsageError) as error:
            log.warning("metrics_incomplete", reason=str(error))

    def write(self) -> None:
        """Write the file now: the metrics of this command, and the earlier metrics of other commands and datasets."""
        if self._path is None:
            return
        try:
            with _exclusively(self._path.parent):
                self._write(self._path)
        except OSError as error:
            log.warning("metrics_not_written", file=str(self._path), reason=reason_of(error))

    def _write(self, path: Path) -> None:
        from prometheus_client import CollectorRegistry, Gauge, write_to_textfile  # noqa: PLC0415 - few ask for it

        before, now = _read(path), time.time()
        samples = self._samples
        datasets = {labels[1] for labels in samples.get("etl_last_records", {})} | self._datasets
        datasets -= {""} if len(datasets) > 1 else set()
        for dataset in datasets:
            labels = (self._command, dataset)
            samples.setdefault("etl_last_run_timestamp_seconds", {})[labels] = now
            samples.setdefault("etl_last_exit_code", {})[labels] = self.exit_code
            samples.setdefault("etl_last_duration_seconds", {})[labels] = now - self._began
            success = self._success(before, labels, now)
            if success is not None:
                samples.setdefault("etl_last_success_timestamp_seconds", {})[labels] = success
        registry = CollectorRegistry()
        for name, metric in METRICS.items():
            gauge = Gauge(name, metric.meaning, metric.labels, registry=registry)
            ours: set[tuple[str, str]] = {(self._command, dataset) for dataset in datasets}
            for values, value in _merged(name, before, samples, ours).items():
                gauge.labels(*values).set(value)
        write_to_textfile(str(path), registry)

    def _success(self, before: _Samples, labels: tuple[str, str], now: float) -> float | None:
        if self.exit_code in DONE:
            return now
        known = [before.get("etl_last_success_timestamp_seconds", {}).get(labels)]
        known.append(self._finished.get(labels[1]) if self._command == "load" else None)
        return max((value for value in known if value is not None), default=None)


def _merged(name: str, before: _Samples, now: _Samples, ours: set[tuple[str, str]]) -> dict[tuple[str, ...], float]:
    """Return the samples of a metric: new ones of this command, and unchanged ones of other commands."""
    if METRICS[name].labels[:2] != _OF_COMMAND:
        return now.get(name, before.get(name, {}))
    others = {labels: value for labels, value in before.get(name, {}).items() if labels[:2] not in ours}
    return others | now.get(name, {})


def _read(path: Path) -> _Samples:
    """Return the samples of a metrics file; none when it is missing or another program wrote it."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415 - few ask for it

    samples: _Samples = {}
    try:
        for family in text_string_to_metric_families(path.read_text(encoding="utf-8")):
            metric = METRICS.get(family.name)
            for sample in family.samples if metric else ():
                labels = tuple(sample.labels.get(label, "") for label in metric.labels) if metric else ()
                if math.isfinite(sample.value):
                    samples.setdefault(family.name, {})[labels] = sample.value
    except FileNotFoundError:
        pass
    except ValueError:
        log.warning("metrics_file_replaced", file=str(path), reason="it is not a metrics file")
    return samples


@contextmanager
def _exclusively(folder: Path) -> Iterator[None]:
    """Let one process at a time read and write the files of a folder. The lock needs no file."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
