"""A dataset definition as a value: read from TOML, validated, and turned into its DDL.

The grammar is the contract C5 (`docs/reference/dataset-definitions.md`). Knows no database connection: it
returns statements, others run them.
"""

from etl.datasets.definition import LINEAGE, SOURCE, Column, Condition, Dataset, Table
from etl.datasets.reading import find, folders, names, read, readable, standing
from etl.datasets.tables import additions, ddl, limits_ddl, quoted, sql_type
from etl.datasets.types import TYPES, Type

__all__ = [
    "LINEAGE",
    "SOURCE",
    "TYPES",
    "Column",
    "Condition",
    "Dataset",
    "Table",
    "Type",
    "additions",
    "ddl",
    "find",
    "folders",
    "limits_ddl",
    "names",
    "quoted",
    "read",
    "readable",
    "sql_type",
    "standing",
]
