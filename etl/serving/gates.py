"""Who may ask: the ways to find out (`--auth`)."""

from collections.abc import MutableMapping
from typing import Any

from etl.serving.identity import ANYONE, Identity
from etl.serving.problems import ProblemError

_OWN_NAMES = frozenset({b"localhost", b"127.0.0.1", b"[::1]", b"::1"})


class Loopback:
    """`--auth none`: everyone on this machine. A page of elsewhere that a browser here shows is not of this machine."""

    async def identify(self, _scope: MutableMapping[str, Any], headers: dict[bytes, bytes]) -> Identity:
        """Return that anyone asks.

        Raises ProblemError when the request names another host, as a page does whose name was turned to this machine.
        """
        host = headers.get(b"host", b"localhost")
        name = host if host.endswith(b"]") else host.rpartition(b":")[0] or host
        if name.lower() not in _OWN_NAMES and not name.startswith(b"127."):
            raise ProblemError(403, "without keys the service is for this machine only: ask localhost or 127.0.0.1")
        return ANYONE
