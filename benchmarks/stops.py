"""How a measurement's command ends: Ctrl-C and SIGTERM alike unwind it, so that what it started and wrote is cleared.

Knows no measurement. Children that other code starts are that code's to end, as it does for any exception.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from flover_backend.cli_exit import exit_status

NUMBERS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def ended_by_signals(name: str) -> Iterator[None]:
    """`exit_status`, and `KeyboardInterrupt` in the main thread at the first SIGINT or SIGTERM; later ones do nothing.

    After one the process ends with 128 + its number and a line on standard error that `name` begins.
    """
    came: list[int] = []
    owner = os.getpid()

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a fork that has not become another program
            os._exit(128 + number)
        came.append(number)
        if len(came) == 1:
            raise KeyboardInterrupt

    before = {number: signal.signal(number, note) for number in NUMBERS}
    try:
        with exit_status(name):
            yield
    except (KeyboardInterrupt, SystemExit):
        if not came:
            raise
        print(f"{name}: stopped", file=sys.stderr)
        sys.exit(128 + came[0])
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
