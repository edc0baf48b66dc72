"""Environment variables that look like settings and are none."""

from collections.abc import Mapping

import structlog

from etl.settings import twins

log = structlog.get_logger(__name__)

_OF_TESTS = ("ETL_TEST_", "ETL_MIXTURE")
"""Beginnings of the variables that the tests of this project read."""


def warn_of_unknown(environment: Mapping[str, str]) -> None:
    """Warn of each variable that begins with `ETL_` and sets nothing; its value may be a password and is not shown."""
    known = twins()
    for name in sorted(environment):
        if name.startswith("ETL_") and name not in known and not name.startswith(_OF_TESTS):
            log.warning("unknown_variable", variable=name, hint="it sets nothing; docs/reference/settings.md has all")
