"""The option --buffer -> where accepted events wait."""

from collections.abc import Iterator
from contextlib import contextmanager

from etl.collecting.buffers import Store
from etl.collecting.reading import SpoolStore
from etl.errors import UsageError
from etl.settings import CollectSettings

_SCHEMES = ("redis://", "rediss://", "unix://")


@contextmanager
def running(settings: CollectSettings) -> Iterator[Store]:
    """Yield where events wait; an embedded server runs until the context ends.

    Raises UsageError when it cannot keep events, BusyError when another collector uses it, DatabaseError when it is
    away.
    """
    if settings.buffer == "embedded":
        from etl.collecting.valkey import embedded  # noqa: PLC0415 - the spool needs no client

        with embedded.running(settings.spool.parent / "valkey"):
            yield _checked(settings)
    else:
        yield _checked(settings)


def _checked(settings: CollectSettings) -> Store:
    store = store_of(settings)
    store.require_usable()
    return store


def store_of(settings: CollectSettings) -> Store:
    """Return where events wait, without a look at it. Raises UsageError when --buffer cannot be read."""
    if settings.part != "all" and settings.buffer in {"spool", "embedded"}:
        raise UsageError(
            f"--part {settings.part} expects a buffer that other processes can use", hint="--buffer redis://..."
        )
    if settings.buffer == "spool":
        return SpoolStore(folder=settings.spool)
    try:
        from etl.collecting.valkey.embedded import url_of  # noqa: PLC0415 - the spool needs no client
        from etl.collecting.valkey.link import pool_of  # noqa: PLC0415 - the same
        from etl.collecting.valkey.reading import ValkeyStore  # noqa: PLC0415 - the same
    except ImportError as error:
        raise UsageError(
            f"--buffer needs a package that is not installed: {error.name}",
            hint="install the extra `collect`: pip install 'WHEEL[collect]'",
        ) from error
    if settings.buffer == "embedded":
        return ValkeyStore(url=url_of(settings.spool.parent / "valkey"))
    if not settings.buffer.startswith(_SCHEMES):
        raise UsageError("--buffer cannot be read", hint="expected spool, embedded, or redis://HOST:PORT/NUMBER")
    pool_of(settings.buffer)
    return ValkeyStore(url=settings.buffer, is_volatile=settings.accept_volatile)
