"""Commands run as a user runs them, with every process that they ever start marked, so that none can hide."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from pathlib import Path

from process_watch import is_alive

FLOVER = [sys.executable, "-m", "flover_backend.cli"]
MARK = "FLOVER_TEST_MARK"


class Command:
    """A `flover` command with its output in a file. Its descendants inherit the mark in their environment."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        self.output = folder / f"{self.mark}.out"
        with self.output.open("wb") as file:
            self.process = subprocess.Popen(
                [*FLOVER, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env=os.environ | {MARK: self.mark, "TMPDIR": str(folder)},
            )

    def text(self) -> str:
        """Everything written so far."""
        return self.output.read_text(errors="replace")

    def wait_for(self, pattern: str, timeout_s: float = 90) -> re.Match[str]:
        """The first match in the output."""
        return wait_for_text(self.text, pattern, lambda: self.process.poll() is None, timeout_s)

    def wait(self, timeout_s: float = 60) -> int:
        """The exit status."""
        return self.process.wait(timeout_s)

    def leftovers(self) -> list[int]:
        """Marked processes that still live, after ten seconds of patience."""
        return wait_until_gone(self.mark)


def wait_for_text(text, pattern, runs, timeout_s):  # type: ignore[no-untyped-def]
    """The first match of `pattern` in `text()`, as long as `runs()`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        alive = runs()
        found = re.search(pattern, text())
        if found:
            return found
        if not alive:
            break
        time.sleep(0.05)
    raise AssertionError(f"{pattern!r} did not come:\n{text()}")


def marked(mark: str) -> list[int]:
    """Live processes with the mark in their environment."""
    wanted = f"{MARK}={mark}".encode()
    return [int(e) for e in os.listdir("/proc") if e.isdigit() and wanted in _environment(e) and is_alive(int(e))]


def wait_until_gone(mark: str) -> list[int]:
    """Marked processes that live after ten seconds."""
    deadline = time.monotonic() + 10
    while marked(mark) and time.monotonic() < deadline:
        time.sleep(0.05)
    return marked(mark)


def _environment(pid: str) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
