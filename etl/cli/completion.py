"""Shell completion: the names of datasets, runs, failures and aggregates that begin with the typed word.

The shell waits while a person types. So a fault gives no message, and a stopped embedded server is not started.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import click

_MOST_RUNS = 50

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def _completing(names: Callable[[click.Context], Iterable[str]]) -> Complete:
    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        with suppress(Exception):  # No message: the shell would print it into the line that is typed.
            return [name for name in names(ctx) if name.startswith(incomplete)]
        return []

    return complete


def _completing_list(names: Callable[[click.Context], Iterable[str]]) -> Complete:
    """Offer names for the last word of a comma-separated list, without the names that the list already has."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        chosen = before.split(",")
        return [f"{before}{comma}{name}" for name in _completing(names)(ctx, parameter, last) if name not in chosen]

    return complete


def _config_dir(ctx: click.Context) -> Path:
    return Path(ctx.find_root().params.get("config_dir") or "config")


def _datasets(ctx: click.Context) -> Iterable[str]:
    from etl.datasets import names

    return names(_config_dir(ctx))


def _aggregates(ctx: click.Context) -> Iterable[str]:
    from etl.precalculation import catalogue

    return [aggregate.name for aggregate in catalogue.look(_config_dir(ctx))[0]]


def _rows(ctx: click.Context, name: str, **values: object) -> Iterable[str]:
    """Return the first column of a query of the ledger, or nothing when the server is stopped or slow."""
    import psycopg

    from etl import queries
    from etl.database import connecting
    from etl.embedded import Server
    from etl.settings import read_file_settings

    option = ctx.find_root().params.get("database")
    address = connecting.choose(option, read_file_settings(_config_dir(ctx)).database, os.environ)
    folder = connecting.embedded_folder(address)
    if folder is not None:
        if not Server(folder).status().running:
            return []
        address = Server(folder).url()
    with psycopg.connect(address, connect_timeout=2, options="-c statement_timeout=2000") as connection:
        return [row[0] for row in connection.execute(queries.load("ledger")[name], values)]


datasets = _completing(_datasets)
several_datasets = _completing_list(_datasets)
aggregates = _completing(_aggregates)
runs = _completing(lambda ctx: _rows(ctx, "newest_runs", limit=_MOST_RUNS))
failures = _completing(lambda ctx: _rows(ctx, "pending_failures"))
