"""Finds out which clients have gone. Triton has to be asked, request by request; each question is a round trip.

At about 135 us a question, a sweep over 1,000 live requests takes 135 ms; with a rest of 0.1 s between sweeps each
request is asked within 250 ms. Nothing here is on the path of tokens.
"""

from __future__ import annotations

from collections.abc import Callable

from flover_backend.front.live import LiveRequests
from flover_backend.front.stream import Stream

SWEEP_INTERVAL_S = 0.1


class CancellationSweep:
    """One pass over the live requests, in whatever phase they are: queued, tokenizing, prefill, decode."""

    def __init__(self, live: LiveRequests, cancel: Callable[[Stream], None]) -> None:
        self._live = live
        self._cancel = cancel

    def __call__(self) -> None:
        """Ask for each live request; cancel those whose client has gone."""
        for stream in self._live.all():
            if stream.client_is_gone():
                self._cancel(stream)
