"""Fixtures of the guarantees: fresh sites, and sources with the state that a clean load of them leaves.

A module sets `RECORDS`, the number of records of its sources.
"""

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

from etl.embedded import Server
from tests.support.cases import Case, clean_case
from tests.support.databases import Databases, databases_of
from tests.support.faults import Connection
from tests.support.site import Site

CaseOf = Callable[[Databases, str, int], Case]


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


@pytest.fixture(scope="session")
def case_of(tmp_path_factory: pytest.TempPathFactory) -> CaseOf:
    """Return a function that makes a case of databases, dataset and number of records; the modules share each case."""

    @cache
    def case_of(databases: Databases, dataset: str, records: int) -> Case:
        return clean_case(databases, tmp_path_factory.mktemp(dataset), dataset, records)

    return case_of


@pytest.fixture(scope="module")
def appended(case_of: CaseOf, databases: Databases, request: pytest.FixtureRequest) -> Case:
    """Give a source that is appended; most of its batches hold a refused record."""
    return case_of(databases, "deliveries", request.module.RECORDS)


@pytest.fixture(scope="module")
def merged(case_of: CaseOf, databases: Databases, request: pytest.FixtureRequest) -> Case:
    """Give a source that is merged and has aggregates."""
    return case_of(databases, "shipments", request.module.RECORDS)
