"""Log lines of a front, through Triton's logger where there is one. No prompts, no generated text, no secrets."""

from __future__ import annotations

import json
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any, Literal

Level = Literal["info", "warn", "error"]

_PLAIN = re.compile(r"[\w.:/+,@-]+", re.ASCII)


class Log:
    """Writes one line a call, as text or as a JSON object."""

    def __init__(self, front_name: str, log_format: str = "text", logger: Any = None) -> None:
        """`logger`: pb_utils.Logger, or None for standard error."""
        self.front_name = front_name
        self._json = log_format == "json"
        self._logger = logger

    def info(self, message: str, **fields: object) -> None:
        """What an operator wants to see once."""
        self._write("info", message, fields)

    def warn(self, message: str, **fields: object) -> None:
        """Something that goes on, but not as wished."""
        self._write("warn", message, fields)

    def error(self, message: str, **fields: object) -> None:
        """Something failed."""
        self._write("error", message, fields)

    def _write(self, level: Level, message: str, fields: dict[str, object]) -> None:
        line = self._format(level, message, fields)
        if self._logger is not None:
            getattr(self._logger, f"log_{level}")(line)
        else:
            print(line, file=sys.stderr, flush=True)

    def _format(self, level: Level, message: str, fields: dict[str, object]) -> str:
        if self._json:
            record = {"time": time.time(), "level": level, "front": self.front_name, "message": message, **fields}
            return json.dumps(record, default=str)
        pairs = "".join(f" {name}={_quoted(value)}" for name, value in fields.items() if value is not None)
        return f"flover {self.front_name}: {message}{pairs}"


def without_values(error: BaseException) -> str:
    """What an unexpected error is and where it was raised. Its text may quote the request, which no log may hold."""
    trace = traceback.extract_tb(error.__traceback__)
    place = f" in {Path(trace[-1].filename).name}:{trace[-1].lineno}" if trace else ""
    return f"{type(error).__name__}{place}"


def _quoted(value: object) -> str:
    # NOTE: what is more than a word is quoted: a request's id is its client's, and must not forge a line or a field.
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) else json.dumps(value)
    return json.dumps(value) if isinstance(value, bool) else str(value)
