"""A process beside a stub, which ends the stub when its tritonserver is gone: `stub_guard.py SERVER STUB REGION ...`.

For the stub that completes the configuration before any engine lives: a tritonserver that is killed in the middle of a
load leaves it in a round trip that nobody answers, with the interpreter lock held, so that no thread in it can watch.
Run as a script without site packages (20 ms); imports nothing of this package. Ends with the stub.
"""

import contextlib
import os
import select
import signal
import sys

PATIENCE_MS = 500
"""For a stub that ends by itself."""


def guard(server: int, stub: int, regions: list[str]) -> None:
    """Return when the stub is gone. `regions`: paths of its shared memory, removed if the server went first."""
    try:
        stub_fd = os.pidfd_open(stub)
    except ProcessLookupError:
        return
    poll = select.poll()
    poll.register(stub_fd, select.POLLIN)
    try:
        server_fd = os.pidfd_open(server)
        poll.register(server_fd, select.POLLIN)
        if stub_fd in dict(poll.poll()):
            return
        poll.unregister(server_fd)
    except ProcessLookupError:
        pass
    if not poll.poll(PATIENCE_MS):
        signal.pidfd_send_signal(stub_fd, signal.SIGKILL)
        poll.poll()
    for region in regions:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(region)


if __name__ == "__main__":
    guard(int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])
