"""Reads a tritonserver's output as it comes: keeps it, shows what an operator wants to see, remembers the errors."""

from __future__ import annotations

import re
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import IO

from flover_backend.errors import ConfigError

# Triton writes I, W or E, month and day, time, process, source, message; our own lines come the same way.
_HEAD = re.compile(r"^([IWE])\d{4} \d\d:\d\d:\d\d\.\d+ \d+ ([\w.]+):\d+\] \"?(.*?)\"?$")
# A line of this backend: of a front as text, of a front or the engine as JSON (a front's escaped within Triton's head).
_OWN = re.compile(r'flover |\{\\?"time\\?": ')
# The lines that tell of requests; there may be thousands.
_REQUEST = re.compile(
    r'flover \S+(?: v\d+)?: request(?:s refused)? \w+=|\{.*\\"message\\": \\"request(?:s refused)?\\"'
)
_BARE_JSON = re.compile(r'^\{"time": [\d.]+, "level": "(\w+)", "engine": ')
# What a Python backend's `initialize` raised; Triton appends where.
_LOAD_ERROR = re.compile(
    r"^failed to load '.*?' version \d+: (?:\w+: )?(?:TritonModelException: )?(.*?)(?:\\n\\nAt:.*)?$"
)
# Triton 24.10 calls it an error at every start on a machine without a CUDA driver; it harms nothing.
_NO_CUDA_DRIVER = "CudaDriverHelper has not been initialized."
KEPT_LINES = 200


def open_log_file(path: Path) -> IO[bytes]:
    """To append to, unbuffered. Raises `ConfigError`."""
    try:
        return path.open("ab", buffering=0)
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f"{str(path)!r} cannot be written: {reason}. Give a file in a folder that is there") from None


class ServerLog:
    """Owns the reading end of a server's stdout and stderr, a thread on it, and the log file if there is one."""

    def __init__(self, stream: IO[bytes], show: Callable[[str], None], own_lines: bool, path: Path | None) -> None:
        self._stream = stream
        self._show = show
        self._own_lines = own_lines
        self._file = open_log_file(path) if path else None
        self._tail: deque[str] = deque(maxlen=KEPT_LINES)
        self._shown = False
        self._is_loading = True
        self._thread = threading.Thread(target=self._read, name="server-log", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait until everything was read. The server must have ended, or the stream never does."""
        self._thread.join(timeout=5)
        if self._file:
            self._file.close()

    def loaded(self) -> None:
        """The model is ready: nothing that was written until now is why the server ends one day."""
        self._is_loading = False
        self._tail.clear()

    def reason(self) -> str:
        """Why the server failed, in one line: what the first load said, else the last error, else the last line."""
        heads = [head for head in map(_HEAD.match, self._tail) if head]
        errors = [head[3] for head in heads if head[1] == "E"]
        loads = [found[1] for found in map(_LOAD_ERROR.match, errors) if found and self._is_loading]
        candidates = loads or errors or list(self._tail) or ["it wrote nothing"]
        return candidates[-1]

    def _read(self) -> None:
        for raw in self._stream:
            if self._file:
                self._file.write(raw)
            line = raw.decode(errors="replace").rstrip("\n")
            if _NO_CUDA_DRIVER in line:
                continue
            self._tail.append(line)
            if self._wanted(line):
                self._show(line)

    def _wanted(self, line: str) -> bool:
        """Warnings and errors, and own lines but requests' if asked for; a line without a head goes with its last."""
        head = _HEAD.match(line)
        if head:
            told = self._own_lines and _OWN.match(head[3]) and not _REQUEST.match(head[3])
            self._shown = head[1] != "I" or bool(told)
        elif bare := _BARE_JSON.match(line):
            self._shown = self._own_lines or bare[1] != "info"
        return self._shown
