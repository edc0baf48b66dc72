"""The tests of this room make rows of records, without a server: the core does no I/O."""

from tests.support.core import server

__all__ = ["server"]
