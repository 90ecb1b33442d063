"""How the engine process writes its log: to stderr, which is the server's log, as Triton writes its own lines, or JSON.

Modules of the engine log through `logging.getLogger(__name__)`. No prompts, no generated text.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal


class TritonFormatter(logging.Formatter):
    """`I1121 03:56:18.308934 21809 load.py:95] "flover engine LABEL: message"`: level, UTC time, process, source."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def format(self, record: logging.LogRecord) -> str:
        """One line, whatever the message holds."""
        seconds = time.strftime("%m%d %H:%M:%S", time.gmtime(record.created))
        microseconds = int(record.created % 1 * 1e6)
        source = f"{record.process} {record.filename}:{record.lineno}"
        text = json.dumps(f"flover engine {self._label}: {_text_of(self, record)}", ensure_ascii=False)
        return f"{_level(record)}{seconds}.{microseconds:06d} {source}] {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object a line."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self._label = label

    def format(self, record: logging.LogRecord) -> str:
        """The same fields as a front's lines have, and the engine's process."""
        fields = {
            "time": record.created,
            "level": {"E": "error", "W": "warn"}.get(_level(record), "info"),
            "engine": self._label,
            "pid": record.process,
            "message": _text_of(self, record),
        }
        return json.dumps(fields)


def set_up_logging(log_format: Literal["text", "json"], label: str) -> None:
    """Log lines of level INFO and above, of all modules of this process. `label`: the model's name and version."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(label) if log_format == "json" else TritonFormatter(label))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


def _level(record: logging.LogRecord) -> str:
    return "E" if record.levelno >= logging.ERROR else "W" if record.levelno >= logging.WARNING else "I"


def _text_of(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    exception = f"\n{formatter.formatException(record.exc_info)}" if record.exc_info else ""
    return record.getMessage() + exception
