"""A dataset definition as a value: read from TOML, validated, and turned into its DDL.

The grammar is `docs/reference/dataset-definitions.md`. This package has no database connection: it returns statements,
and others run them.
"""

from etl.datasets.definition import DIGEST, LINEAGE, SOURCE, Column, Condition, Dataset, Table
from etl.datasets.reading import default_names, find, folders, look, names, read, readable
from etl.datasets.tables import (
    additions,
    columns_in_database,
    creation,
    ddl,
    divided_by,
    first_columns,
    hash_partition_name,
    hash_partitions,
    limits_ddl,
    listed,
    partition_clause,
    quoted,
    replica_identity,
    same_key,
    short_name,
    sql_type,
)
from etl.datasets.types import TYPES, Type

__all__ = [
    "DIGEST",
    "LINEAGE",
    "SOURCE",
    "TYPES",
    "Column",
    "Condition",
    "Dataset",
    "Table",
    "Type",
    "additions",
    "columns_in_database",
    "creation",
    "ddl",
    "default_names",
    "divided_by",
    "find",
    "first_columns",
    "folders",
    "hash_partition_name",
    "hash_partitions",
    "limits_ddl",
    "listed",
    "look",
    "names",
    "partition_clause",
    "quoted",
    "read",
    "readable",
    "replica_identity",
    "same_key",
    "short_name",
    "sql_type",
]
