"""Tables that the server divides into months or days, or by a hash: what a definition must say for that."""

from collections.abc import Iterator

from etl.datasets.definition import Dataset, Table

TYPES = ("date", "timestamp", "timestamptz")
"""The types of columns by whose months and days a table can be divided."""


def partitioned(dataset: Dataset) -> Iterator[Table]:
    """Yield the tables of a dataset that have partitions of months or days."""
    return (table for table in dataset.tables if table.partition_by is not None)


def hashed(dataset: Dataset) -> Iterator[Table]:
    """Yield the tables of a dataset that are divided by the hash of the key."""
    return (table for table in dataset.tables if table.partition_hash is not None)


def problems(dataset: Dataset) -> Iterator[str]:
    """Yield the reasons why tables cannot be divided as the definition says."""
    for table in partitioned(dataset):
        yield from (f"table {table.name}: {problem}" for problem in _problems(dataset, table))
    for table in hashed(dataset):
        yield from (f"table {table.name}: {problem}" for problem in _problems_of_hash(dataset, table))


def _problems_of_hash(dataset: Dataset, table: Table) -> Iterator[str]:
    if table.partition_by is not None:
        yield "partition_hash and partition_by exclude each other"
    if not dataset.key:
        yield "partition_hash expects a dataset with a key: rows have their partition by the hash of the key"
    if any(each.history for each in dataset.tables):
        yield "partition_hash and history exclude each other"
    if dataset.deletions is not None:
        yield "partition_hash and delete_if exclude each other"


def _problems(dataset: Dataset, table: Table) -> Iterator[str]:
    column = table.column(table.partition_by or "")
    if column is None or column.type not in TYPES:
        yield f"partition_by expects a column of this table of type {', '.join(TYPES)}, got {table.partition_by!r}"
        return
    if not column.required:
        yield f"partition_by expects a column with required = true: no partition holds null, {column.name} may be null"
    if dataset.key and not table.each and column.name not in dataset.key:
        yield (
            f"partition_by expects a column of the key ({', '.join(dataset.key)}), got {column.name}: PostgreSQL keeps"
            " a key unique within a partition only, so a record whose month changed would be there twice"
        )
    if any(each.history for each in dataset.tables):
        yield "partition_by and history exclude each other"
    if dataset.deletions is not None:
        yield "partition_by and delete_if exclude each other"
