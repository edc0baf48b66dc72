"""`--executor`: who loads the pieces of a source, and what must be true of others than processes of this machine."""

import importlib.util
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from typing import Protocol

from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from etl.database.connecting import Database
from etl.errors import UsageError
from etl.ingestion.pipeline.assembly import RunContext
from etl.ingestion.pipeline.job import Load, Stop
from etl.ingestion.pipeline.tasks import TaskResult
from etl.ingestion.values import Piece

LOCAL_CLUSTER = "dask:local"

_SCHEMES = ("tcp://", "tls://")

_SECRETS = ("password", "sslpassword", "oauth_client_secret")
"""The keywords of libpq that no task may carry."""


class Pool(Protocol):
    """Workers that load the submitted pieces; `first` returns the result of each, in order."""

    @property
    def is_busy(self) -> bool:
        """Whether no further piece should be cut before one is done."""

    @property
    def has_more(self) -> bool:
        """Whether a submitted piece is not returned yet."""

    def submit(self, context: RunContext, piece: Piece, place: str | None, waited: float) -> None:
        """Submit a piece; of a plain file at a path, or of an object at a URL, perhaps only its place.

        `waited` are the seconds that this process has waited for the source.
        """

    def first(self, stop: Stop) -> tuple[Piece, TaskResult]:
        """Wait for the piece that was submitted first; return it without its bytes, and its result."""

    def cancel_unstarted(self) -> list[Piece]:
        """Take back the pieces that no worker has begun, and return them."""


def scheduler_of(executor: str) -> str | None:
    """Return the address of the Dask scheduler that an executor names; None for this machine's own processes.

    Raises UsageError for an executor that there is not.
    """
    if executor in {"local", LOCAL_CLUSTER}:
        return None
    address = executor.removeprefix("dask:")
    if address == executor or not address.startswith(_SCHEMES) or not address.partition("://")[2]:
        raise UsageError(
            f"--executor expects local, {LOCAL_CLUSTER} or dask:tcp://HOST:PORT, got {executor!r}",
        )
    return address


def require_usable(load: Load) -> None:
    """Raise UsageError when the executor cannot load what the command asks for."""
    settings = load.settings
    address = scheduler_of(settings.executor)
    if settings.executor == "local":
        return
    if settings.follow:
        raise UsageError("--follow loads each record as it comes, by one process", hint="--executor local")
    missing = [name for name in ("distributed", "cryptography") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"--executor {settings.executor} needs the package {missing[0]}",
            hint="pip install distributed cryptography, here, on the scheduler and on each worker",
        )
    if address is not None and load.database.embedded:
        raise UsageError(
            "the embedded server takes connections of this machine only, and the workers of a scheduler may be on"
            " others",
            hint=f"name a PostgreSQL by --database postgresql://..., or use --executor {LOCAL_CLUSTER}",
        )


def begin_early(load: Load) -> None:
    """Let workers of this machine be prepared while the command asks the database and recognises its source."""
    if load.is_shared and load.settings.executor == LOCAL_CLUSTER:
        from etl.ingestion.pipeline import fork_server  # noqa: PLC0415 - the others do without it

        fork_server.begin()


def without_secrets(database: Database) -> Database:
    """Return a database as a task may carry it: with what this process's variables add to its address, no password.

    Workers find the password where libpq looks for it on their own machine: PGPASSWORD, a service or `.pgpass`.
    """
    written = conninfo_to_dict(database.conninfo)
    known = {
        option.keyword.decode(): os.environ[option.envvar.decode()]
        for option in pq.Conninfo.get_defaults()
        if option.envvar and os.environ.get(option.envvar.decode())
    }
    kept = {name: value for name, value in (known | written).items() if name not in _SECRETS and value is not None}
    return replace(database, conninfo=make_conninfo("", **kept))


def secret_environment(database: Database) -> dict[str, str]:
    """Return the variables that give workers on this machine the password of a database."""
    password = conninfo_to_dict(database.conninfo).get("password")
    return {"PGPASSWORD": str(password)} if password else {}


@contextmanager
def pool_of(load: Load, size: int) -> Iterator[Pool]:
    """Yield the pool that loads a source: processes of this command, or the workers of a Dask cluster."""
    executor = load.settings.executor
    pool: AbstractContextManager[Pool]
    if executor == "local":
        from etl.ingestion.pipeline.pool import worker_pool  # noqa: PLC0415 - the others do without it

        pool = worker_pool(size, load.logs)
    else:
        from etl.ingestion.pipeline.dask_pool import dask_pool  # noqa: PLC0415 - of an extra package

        pool = dask_pool(load, size, scheduler_of(executor))
    with pool as opened:
        yield opened
