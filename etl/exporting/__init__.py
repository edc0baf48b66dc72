"""Exports: the tables of one snapshot as files of Parquet, Arrow, CSV or DuckDB, for programs without the server."""
