"""Batch ETL of logistics JSON into PostgreSQL by COPY."""

__version__ = "0.1.0"
