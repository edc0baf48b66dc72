"""The fixtures of the rooms of the core, which have no server."""

import pytest


@pytest.fixture(scope="session")
def server() -> None:
    """Fail: the core uses no database, so a test that needs one belongs in another room."""
    pytest.fail("a test of the core asks for the server: move it to tests/destination, tests/pipeline or guarantees")
