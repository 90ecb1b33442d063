"""A `flover` command on a terminal of its own, where Ctrl-C is typed as a person types it."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import struct
import subprocess
import termios
import threading
import uuid
from pathlib import Path

from commands import FLOVER, MARK, wait_for_text


def _log_in(slave: int) -> None:
    """What a login does: a terminal of one's own, and no signal ignored (a job in the background ignores SIGINT)."""
    os.login_tty(slave)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """Owns a pseudo-terminal of 110 x 34 and the command in its foreground."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.mark = uuid.uuid4().hex
        self._master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 34, 110, 0, 0))
        environment = os.environ | {MARK: self.mark, "TMPDIR": str(folder), "TERM": "xterm-256color"}
        self.process = subprocess.Popen(
            [*FLOVER, *arguments],
            cwd=folder,
            env=environment,
            preexec_fn=lambda: _log_in(slave),  # noqa: PLW1509
        )
        os.close(slave)
        self._written = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def text(self) -> str:
        """Everything shown so far, control sequences and all."""
        return self._written.decode(errors="replace")

    def wait_for(self, pattern: str, timeout_s: float = 120) -> re.Match[str]:
        """The first match in what was shown."""
        return wait_for_text(self.text, pattern, lambda: self.process.poll() is None, timeout_s)

    def press_ctrl_c(self) -> None:
        """The terminal turns it into SIGINT for its foreground process group."""
        os.write(self._master, b"\x03")

    def wait(self, timeout_s: float = 60) -> int:
        """The exit status, after everything shown was read."""
        status = self.process.wait(timeout_s)
        self._reader.join(5)
        os.close(self._master)
        return status

    def _read(self) -> None:
        while True:
            try:
                self._written += os.read(self._master, 65536)
            except OSError:  # the last process with the terminal open has ended
                return
