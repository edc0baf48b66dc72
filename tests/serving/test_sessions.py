"""Sessions of the service, which stay open: each use has the role of the one who asks."""

import asyncio
from contextlib import suppress
from typing import Any

import pytest

from etl.database.connecting import Database
from etl.serving.pool import Sessions
from tests.support.site import Site


def test_a_use_that_is_cancelled_leaves_no_role_to_the_next(demo: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """When a request ends while its session gets another role, the next one has its own role all the same."""

    async def cancelled(*_values: Any) -> None:
        raise asyncio.CancelledError

    async def roles() -> list[str]:
        sessions = Sessions(Database(conninfo=demo.conninfo), size=1, statement_seconds=5)
        await sessions.open()
        found = []
        try:
            for before, after in (("etl_analyst", None), (None, "etl_analyst"), ("etl_loader", "etl_analyst")):
                async with sessions.session(before) as connection:
                    pass
                with monkeypatch.context() as patch, suppress(asyncio.CancelledError):
                    patch.setattr(connection, "execute", cancelled)
                    async with sessions.session(after):
                        raise AssertionError("nothing was cancelled")
                async with sessions.session(after) as connection:
                    [role] = await (await connection.execute("select current_role")).fetchone() or [""]
                    found.append("user" if after is None and role == connection.info.user else role)
        finally:
            await sessions.close()
        return found

    assert asyncio.run(roles()) == ["user", "etl_analyst", "etl_analyst"]
