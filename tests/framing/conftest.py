"""The tests of this room cut sources into records, without a server: the core does no I/O."""

from tests.support.core import server

__all__ = ["server"]
