"""The story on stderr: structlog set up once, console on a terminal, JSON elsewhere, stdlib loggers routed in.

Events are past-tense facts with keys. Never bind or log the content of a record, nor a password.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal


@contextmanager
def _without(module: str) -> Iterator[None]:
    """Let an import that can do without a module do so."""
    if module in sys.modules:
        yield
        return
    sys.modules[module] = None  # type: ignore[assignment] # which the import system takes for: not installed
    try:
        yield
    finally:
        del sys.modules[module]


with _without("rich"):  # It would draw tracebacks, which are told in one line here, and takes a tenth of the start.
    import structlog

LogFormat = Literal["auto", "console", "json"]


@dataclass(frozen=True, kw_only=True)
class Logs:
    """How the story is told: its format, its least level, and whether in colours."""

    format: LogFormat = "auto"
    level: str = "info"
    colors: bool = False


def set_up(logs: Logs) -> None:
    """Route structlog and the standard library's loggers to stderr in one format."""
    console = logs.format == "console" or (logs.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    renderer: structlog.typing.Processor = (
        structlog.dev.ConsoleRenderer(colors=logs.colors) if console else structlog.processors.JSONRenderer()
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logs.level.upper())
    # Alembic tells every step at info; psycopg warns of what the loader itself handles and reports.
    logging.getLogger("alembic").setLevel("WARNING")
    logging.getLogger("psycopg").setLevel("ERROR")
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
