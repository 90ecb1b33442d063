"""How a command ends: an error of the project's, or a stop by a signal, is one line and an exit status.

Knows no command. Imports nothing that is slow.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flover_backend.errors import FloverError
from flover_backend.stop_signals import Stopped


@contextmanager
def exit_status(name: str) -> Iterator[None]:
    """End the process with 1 after a `FloverError`, with 130 after `Stopped`; `name` begins the line on standard error.

    Every other exception passes.
    """
    try:
        yield
    except FloverError as error:
        print(f"{name}: {error}", file=sys.stderr)
        sys.exit(1)
    except Stopped:
        print(f"{name}: stopped", file=sys.stderr)
        sys.exit(130)
