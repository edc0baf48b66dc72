"""Fixtures of the guarantees: fresh sites, and sources with the state that a clean load of them leaves.

A module sets `RECORDS`, the number of records of its sources.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from etl.embedded import Server
from tests.support.cases import Case, clean_case
from tests.support.databases import Databases, databases_of
from tests.support.faults import Connection
from tests.support.site import Site


@pytest.fixture(scope="module")
def databases(server: Server) -> Databases:
    """Give fresh databases of the server that all tests share."""
    return databases_of(server)


@pytest.fixture
def site(databases: Databases, tmp_path: Path) -> Iterator[Site]:
    """Give a site: a fresh database and the test's folder."""
    with databases.site(tmp_path) as site:
        yield site


@pytest.fixture
def database_url(site: Site) -> str:
    """Return the address of the site's database."""
    return site.conninfo


@pytest.fixture
def connection(site: Site) -> Connection:
    """Give the connection of the site."""
    return site.connection


@pytest.fixture(scope="module")
def appended(databases: Databases, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Case:
    """Give a source that is appended; most of its batches hold a refused record."""
    return clean_case(databases, tmp_path_factory.mktemp("appended"), "deliveries", request.module.RECORDS)


@pytest.fixture(scope="module")
def merged(databases: Databases, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Case:
    """Give a source that is merged and has aggregates."""
    return clean_case(databases, tmp_path_factory.mktemp("merged"), "shipments", request.module.RECORDS)
