"""What a shell may offer for a word that is being typed: names of datasets, runs, failures and aggregates.

A shell waits for it while a person types: nothing is told of a fault, and a stopped embedded server stays stopped.
"""

import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import click

_MOST_RUNS = 50

Complete = Callable[[click.Context, click.Parameter, str], list[str]]


def _offering(names: Callable[[click.Context], Iterable[str]]) -> Complete:
    def complete(ctx: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        with suppress(Exception):  # There is nobody to tell it: the shell shows what stderr holds amid the line.
            return [name for name in names(ctx) if name.startswith(incomplete)]
        return []

    return complete


def _offering_another(names: Callable[[click.Context], Iterable[str]]) -> Complete:
    """Offer names for the last of a list that is separated by commas, but for those that stand in it."""

    def complete(ctx: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",")
        chosen = before.split(",")
        return [f"{before}{comma}{name}" for name in _offering(names)(ctx, parameter, last) if name not in chosen]

    return complete


def _config_dir(ctx: click.Context) -> Path:
    return Path(ctx.find_root().params.get("config_dir") or "config")


def _datasets(ctx: click.Context) -> Iterable[str]:
    from etl.datasets import names

    return names(_config_dir(ctx))


def _aggregates(ctx: click.Context) -> Iterable[str]:
    from etl.precalculation import catalogue

    return [aggregate.name for aggregate in catalogue.read_all(_config_dir(ctx))]


def _rows(ctx: click.Context, name: str, **values: object) -> Iterable[str]:
    """Return the first column of a query of the ledger, or nothing where that takes long."""
    import psycopg

    from etl import queries
    from etl.database import connecting
    from etl.embedded import Server
    from etl.settings import read_file_settings

    given = ctx.find_root().params.get("database")
    address = connecting.choose(given, read_file_settings(_config_dir(ctx)).database, os.environ)
    folder = connecting.embedded_folder(address)
    if folder is not None:
        if not Server(folder).status().running:
            return []
        address = Server(folder).url()
    with psycopg.connect(address, connect_timeout=2, options="-c statement_timeout=2000") as connection:
        return [row[0] for row in connection.execute(queries.load("ledger")[name], values)]


datasets = _offering(_datasets)
several_datasets = _offering_another(_datasets)
aggregates = _offering(_aggregates)
runs = _offering(lambda ctx: _rows(ctx, "newest_runs", limit=_MOST_RUNS))
failures = _offering(lambda ctx: _rows(ctx, "pending_failures"))
