"""One connection of the engine process, and what the main thread is told of it. Knows frames and roles."""

from __future__ import annotations

import socket
from collections import deque
from dataclasses import dataclass, field

from flover_backend.channel import FrameReader, Hello, ToEngine


@dataclass(frozen=True, slots=True)
class Attached:
    """A peer said Hello."""

    hello: Hello


@dataclass(frozen=True, slots=True)
class Detached:
    """A peer that had said Hello is gone, or was dropped."""


Event = tuple[int, Attached | Detached | ToEngine]
"""(number of the connection, what came)."""


@dataclass
class Peer:
    """A connection; only the IO thread touches it."""

    number: int
    connection: socket.socket
    reader: FrameReader
    outgoing: deque[memoryview] = field(default_factory=deque)
    outgoing_bytes: int = 0
    hello: Hello | None = None

    @property
    def is_front(self) -> bool:
        """It keeps the engine alive."""
        return self.hello is not None and self.hello.role == "front"
