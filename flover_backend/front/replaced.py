"""Gives up the engine of a load that a later one has replaced, where Triton keeps its instances all the same.

24.10 lets go of a version when nothing refers to it any more. A gRPC stream does, for as long as its client keeps it
open, and for good where it was cancelled just as its last response was sent (docs/operations.md, Reload). The instances
stay for so long, idle; the engine with its memory need not. Knows neither requests nor messages.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from flover_backend.front.admission import Admission
from flover_backend.front.generation import Generation
from flover_backend.front.interface import Client
from flover_backend.front.live import LiveRequests
from flover_backend.front.logs import Log

LOOK_S = 2.0
PATIENCE_S = 10.0
"""Idle, and replaced: Triton asks instances that it lets go of within two or three seconds to end."""


class Replaced:
    """A chore: call it often, from one thread."""

    def __init__(
        self,
        admission: Admission,
        live: LiveRequests,
        client: Client,
        generation: Generation,
        log: Log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._admission = admission
        self._live = live
        self._client = client
        self._generation = generation
        self._log = log
        self._clock = clock
        self._next_look = 0.0
        self._has_told = False
        self._since: float | None = None
        self._has_left = False

    def __call__(self) -> None:
        """Look, when it is time to."""
        now = self._clock()
        if now < self._next_look or self._has_left:
            return
        self._next_look = now + LOOK_S
        if self._live.has_had_any and not self._has_told:
            self._generation.serves()
            self._has_told = True
        if self._live.all() or not self._generation.is_replaced():
            self._since = None
        elif self._since is None:
            self._since = now
        elif now - self._since >= PATIENCE_S:
            self._leave()

    def _leave(self) -> None:
        self._admission.close()
        if self._live.all():  # one came meanwhile
            self._admission.resume()
            return
        self._has_left = True
        self._log.info("a later load serves this version, and the server keeps this one: it leaves its engine")
        self._client.close()
