"""Retention: old partitions of a dataset are exported and removed, and the aggregates refreshed.

Each partition goes by itself, in steps that are found in the database again after an interruption.
"""

import re
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from pathlib import Path

import psycopg

from etl.database import connecting, partitions
from etl.database.connecting import Database
from etl.database.partitions import Partition
from etl.datasets import Dataset
from etl.errors import UsageError
from etl.exporting import exports
from etl.exporting.places import place_of
from etl.precalculation import catalogue, refresh


@dataclass(frozen=True, kw_only=True)
class Kept:
    """Where the rows of removed partitions are exported to, a folder or its URL, and in which format."""

    to: str
    format: exports.Format


@dataclass(frozen=True, kw_only=True)
class RemovedPartition:
    """A partition that was removed, or would be, with its rows, and where these were exported to."""

    fact: str
    name: str
    first_day: str
    until_day: str
    rows: int
    exported_to: str | None = None


def remove_old_partitions(
    target: Database, dataset: Dataset, keep: str, config_dir: Path, *, kept: Kept | None = None, is_dry_run: bool
) -> list[RemovedPartition]:
    """Remove the partitions of a dataset that end before an age, an SQL interval, and refresh the aggregates.

    Raises UsageError if no table of the dataset has partitions, child rows have none, or the user does not own them,
    BusyError when another session removes some, and OutputError when a place of an export cannot be written: the
    partition stays.
    """
    wanted = partitions.partitioned_tables(dataset)
    partitions.require_carried_along(dataset)
    if kept is not None:
        exports.require_packages(kept.format)
        place_of(kept.to)
    with connecting.connect(target, "etl:retention") as connection:
        for table in wanted:
            partitions.require_divided(connection, dataset, table)
        removed = []
        try:
            if not is_dry_run:
                partitions.lock_removals(connection, dataset)
                partitions.note_lost(connection)
            for each in partitions.older(connection, dataset, keep):
                rows, place = partitions.rows_of(connection, each), each.exported_to
                if not is_dry_run:
                    place = _remove(connection, target, each, config_dir, kept)
                removed.append(_as_removed(each, rows, place))
        except psycopg.errors.InsufficientPrivilege as error:
            raise UsageError(
                f"the user {connection.info.user} may not remove partitions of {dataset.name}",
                hint="run the command as the owner of the tables",
            ) from error
        if not is_dry_run:
            names = [table.name for table in dataset.tables]
            aggregates = catalogue.aggregates_reading(names, config_dir)
            for _ in refresh.refresh_all(connection, aggregates, run=None):
                pass
        return removed


def _as_removed(partition: Partition, rows: int, place: str | None) -> RemovedPartition:
    return RemovedPartition(
        fact=partition.fact,
        name=partition.name,
        first_day=partition.first_day,
        until_day=partition.until_day,
        rows=rows,
        exported_to=place,
    )


def _remove(
    connection: psycopg.Connection, target: Database, partition: Partition, config_dir: Path, kept: Kept | None
) -> str | None:
    """Remove a partition; return where its rows are exported to.

    Its rows are deleted only if they are those of the export. Rows that come between the deletion and the detaching
    are exported beside it.
    """
    request = partial(
        exports.ExportRequest,
        tables=(f"{partition.fact.split('.')[0]}.{partition.name}",),
        by_month=False,
        since_last=False,
        database=target.name,
        config_dir=config_dir,
    )
    place = partition.exported_to
    is_emptied = partition.is_removed
    while partition.state == "attached" and not is_emptied:
        digest = None
        if kept is not None:
            digest = partitions.digest_of(connection, partition)
            place = _chosen(connection, partition, kept)
            exports.export(connection, request(format=kept.format), place_of(place))
        is_emptied = partitions.empty(connection, partition, digest)
    partitions.detach(connection, partition)
    if kept is not None and partitions.rows_of(connection, partition):
        first = place if is_emptied else None
        rest = f"{first}-late" if first else _chosen(connection, partition, kept)
        exports.export(connection, request(format=kept.format), place_of(rest))
        place = first or rest
    partitions.drop(connection, partition)
    return place


def _chosen(connection: psycopg.Connection, partition: Partition, kept: Kept) -> str:
    """Return a place that no other export of this name has; it is noted, so that it is the same after a kill."""
    noted = partitions.noted_place(connection, partition)
    wanted = f"{kept.to.rstrip('/')}/{partition.name}"
    if noted is not None and re.fullmatch(rf"{re.escape(wanted)}(-\d+)?", noted):
        return noted
    names = chain([wanted], (f"{wanted}-{number}" for number in count(2)))
    place = next(name for name in names if place_of(name).manifest() is None)
    partitions.note_place(connection, partition, place)
    return place
