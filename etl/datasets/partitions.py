"""Tables that the server divides into months or days: what a definition must say for that."""

from collections.abc import Iterator

from etl.datasets.definition import Dataset, Table

TYPES = ("date", "timestamp", "timestamptz")
"""The types of columns by whose months and days a table can be divided."""


def partitioned(dataset: Dataset) -> Iterator[Table]:
    """Yield the tables of a dataset that have partitions."""
    return (table for table in dataset.tables if table.partition_by is not None)


def problems(dataset: Dataset) -> Iterator[str]:
    """Yield the reasons why tables cannot be divided as the definition says."""
    for table in partitioned(dataset):
        yield from (f"table {table.name}: {problem}" for problem in _problems(dataset, table))


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
