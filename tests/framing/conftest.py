"""These tests cut sources into records without a server, because the core does no I/O."""

from tests.support.core import server

__all__ = ["server"]
