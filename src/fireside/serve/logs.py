"""Log lines: readable on a terminal, or one JSON object each. Anything that uses `logging` comes out the same."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor


def _console() -> Processor:
    """Lines for a terminal. Its own tracebacks would show the values of variables, and with them keys and texts."""
    return structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback)


def configure(log_format: str, level: str) -> None:
    """Send this process's log to stderr, as 'text' or 'json', from `level` up. For the program, not for a library."""
    shared: list[Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[Processor] = [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
    if log_format == "json":
        last += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    else:
        last.append(_console())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(foreign_pre_chain=shared, processors=last))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel("WARNING")
    logging.getLogger("fireside").setLevel(level.upper())
    # A stream that breaks off is closed without its end on purpose; uvicorn would call that an error of ours.
    logging.getLogger("uvicorn.error").addFilter(lambda record: "without completing" not in record.getMessage())
