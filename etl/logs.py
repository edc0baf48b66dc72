"""Logging to stderr: structlog, set up once. On a terminal it writes text, elsewhere JSON; stdlib loggers use it too.

Events are past-tense facts with keys. Never bind or log the content of a record, nor a password.
"""

import logging
import sys
from typing import Literal, TextIO

from etl.optional_modules import without
from etl.quick_dataclasses import dataclass
from etl.standard_streams import one_line, printable, styled

# rich would draw tracebacks, which are one line here, and needs a tenth of the start. colorama is for Windows.
with without("rich"), without("colorama"):
    import structlog

LogFormat = Literal["auto", "console", "json"]


@dataclass(frozen=True, kw_only=True)
class Logs:
    """How log lines are written: their format, the lowest level, and whether in colours.

    `below` is the number of lines at the end of the terminal that another process draws: log lines go above them.
    """

    format: LogFormat = "auto"
    level: str = "info"
    colors: bool = False
    below: int = 0


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the present stderr, which lets lines pass above a progress bar.

    The process that draws a bar cannot see what another process writes. There a line replaces the bar, leaves the
    cursor where the bar left it, and is one write.
    """

    def __init__(self, below: int) -> None:
        logging.Handler.__init__(self)
        self._start = "\r\x1b[2K" + "\x1b[1A\x1b[2K" * (below - 1) if below else ""
        self.terminator = "\n" * max(below, 1)

    @property
    def stream(self) -> TextIO:  # type: ignore[override] # a class of the standard library does the same
        return sys.stderr

    def format(self, record: logging.LogRecord) -> str:
        return self._start + super().format(record)

    def emit(self, record: logging.LogRecord) -> None:
        # Its colours and the moves of the cursor are ours; the text was escaped before.
        stream = sys.stderr
        try:
            styled(stream).write(self.format(record) + self.terminator)
            stream.flush()
        except Exception:  # noqa: BLE001 - a log line never ends a command
            self.handleError(record)


def _escape(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape the control characters of a line for people; JSON escapes its own."""
    return {
        name: (printable if name == "exception" else one_line)(value) if isinstance(value, str) else value
        for name, value in event.items()
    }


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
    handler = _Stderr(logs.below)
    remove_meta: structlog.typing.Processor = structlog.stdlib.ProcessorFormatter.remove_processors_meta
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[remove_meta, _escape, renderer] if console else [remove_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logs.level.upper())
    # Alembic logs every step at info; psycopg warns of errors that the loader itself handles and reports.
    logging.getLogger("alembic").setLevel("WARNING")
    logging.getLogger("psycopg").setLevel("ERROR")
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
