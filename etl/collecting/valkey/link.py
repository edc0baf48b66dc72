"""A connection to a Redis or Valkey server that keeps events: what it keeps is on its disk before it answers.

A command is never sent again by itself: an answer that is lost may be that of events that are stored.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from redis import ConnectionPool
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoScriptError, ReadOnlyError, RedisError, ResponseError
from redis.retry import Retry

from etl.errors import UsageError

_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 15.0

EXPECTED = {
    "appendonly": "yes",
    "appendfsync": "always",
    "no-appendfsync-on-rewrite": "no",
    "maxmemory-policy": "noeviction",
}
"""The settings of a server that keeps what it has acknowledged."""


class AwayError(Exception):
    """The server cannot be reached, or takes no commands now."""


class Link:
    """One connection, of one thread. An error of the network ends it, and the next command makes another one."""

    def __init__(self, url: str, *, is_volatile: bool) -> None:
        self._pool = pool_of(url)
        self._is_volatile = is_volatile
        self._connection: Any = None
        self.server = ""
        """The server process of the connection: after a restart or a failover it is another one."""

    def call(self, *command: str | bytes | int) -> Any:
        """Send a command and return the answer.

        Raises AwayError; UsageError when the server does not keep what it acknowledges; ResponseError when it refuses
        the command.
        """
        return self.call_all([command])[0]

    def call_all(self, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
        """Send commands at once and return their answers. Raises the same errors; then no answer is known."""
        connection = self._connected()
        try:
            return _exchange(connection, commands)
        except ResponseError as error:
            if len(commands) > 1 or isinstance(error, ReadOnlyError):  # Another server may be the primary now.
                self.close()
            raise
        except (RedisError, OSError) as error:
            self.close()
            raise AwayError(_reason(error)) from error

    def run(self, script: str, keys: Sequence[str], arguments: Sequence[str | bytes | int]) -> Any:
        """Run a script, which the server may not have yet, and return its answer. Raises the same errors."""
        given = (len(keys), *keys, *arguments)
        try:
            return self.call("EVALSHA", hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest(), *given)
        except NoScriptError:
            return self.call("EVAL", script, *given)

    def connect(self) -> None:
        """Connect, unless there is a connection. Raises AwayError, or UsageError."""
        self._connected()

    def close(self) -> None:
        """End the connection."""
        if self._connection is not None:
            self._connection.disconnect()
            self._connection = None

    def _connected(self) -> Any:
        if self._connection is not None and _has_ended(self._connection):
            self.close()
        if self._connection is None:
            connection: Any = self._pool.make_connection()
            try:
                connection.connect()
                self.server = self._checked(connection)
            except AuthenticationError as error:
                raise UsageError("the server of the buffer refuses the password", hint="see --buffer") from error
            except (RedisError, OSError) as error:
                connection.disconnect()
                raise AwayError(_reason(error)) from error
            except UsageError:
                connection.disconnect()
                raise
            self._connection = connection
        return self._connection

    def _checked(self, connection: Any) -> str:
        """Return the name of the server process.

        Raises UsageError when a setting may let it lose what it has acknowledged.
        """
        (info,) = _exchange(connection, [("INFO",)])
        known = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
        if known.get("redis_mode") == "cluster":
            raise UsageError("the buffer is a cluster", hint="give --buffer a server that is none")
        if known.get("role") != "master":
            raise AwayError("this server is a replica")
        if not self._is_volatile:
            _require_durable(connection)
        return str(known["run_id"])


def pool_of(url: str) -> ConnectionPool:
    """Return what makes connections to an address. Raises UsageError, without the address: it may have a password."""
    try:
        pool = ConnectionPool.from_url(
            url,
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=_ANSWER_SECONDS,
            socket_connect_timeout=_CONNECT_SECONDS,
            client_name="etl-collect",
        )
        pool.make_connection()  # Without a word to the server: options that it does not know show here.
    except (TypeError, ValueError) as error:
        raise UsageError(
            "--buffer cannot be read", hint="expected spool, embedded, or redis://HOST:PORT/NUMBER"
        ) from error
    return pool


def _require_durable(connection: Any) -> None:
    """Raise UsageError, with the settings, when the server may lose what it has acknowledged."""
    hint = "set it, or accept that a crash of the server loses events: --accept-volatile"
    try:
        answers = _exchange(connection, [("CONFIG", "GET", name) for name in EXPECTED])
    except ResponseError as error:
        raise UsageError("the server of the buffer does not show its settings (CONFIG GET)", hint=hint) from error
    found = {
        name: (answer[1].decode() if answer else "unknown") for name, answer in zip(EXPECTED, answers, strict=True)
    }
    wrong = [f"{name} is {found[name]}, not {value}" for name, value in EXPECTED.items() if found[name] != value]
    if wrong:
        raise UsageError(f"the server of the buffer may lose what it has acknowledged: {'; '.join(wrong)}", hint=hint)


def _exchange(connection: Any, commands: Sequence[Sequence[str | bytes | int]]) -> list[Any]:
    connection.send_packed_command(connection.pack_commands(commands), check_health=False)
    return [connection.read_response() for _ in commands]


def _has_ended(connection: Any) -> bool:
    """Return whether the other side has ended an idle connection: then nothing is sent that may be lost."""
    try:
        return bool(connection.can_read(timeout=0))
    except (RedisError, OSError):
        return True


def _reason(error: Exception) -> str:
    """Return a short reason without the address."""
    return f"the server of the buffer cannot be reached ({type(error).__name__})"
