"""Gives the kernel the names of Python's threads, so that `top -H` and /proc tell them apart. Linux alone."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

MAX_LENGTH = 15
"""Bytes that the kernel keeps."""


def tell_kernel_the_name() -> None:
    """Of the calling thread, as a thread's first act. Does nothing where /proc cannot be written."""
    with suppress(OSError):
        comm = Path(f"/proc/self/task/{threading.get_native_id()}/comm")
        comm.write_text(threading.current_thread().name[:MAX_LENGTH])
