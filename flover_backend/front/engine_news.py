"""What a front is told of its engine. Knows the messages' content; who sends and who handles it is elsewhere."""

from __future__ import annotations

from typing import Protocol

from flover_backend.channel import Metrics, Status
from flover_backend.request import FinishReason

TokenLogprob = tuple[float, int, list[tuple[int, float]]]
"""(logprob, rank, top [(id, logprob)]) of one token."""


class EngineHandler(Protocol):
    """What a front does with the engine's news. All methods are called from the client's one reader thread.

    They must not block for long (nobody else reads the socket) and should not raise: an exception is treated as the
    engine's failure, `on_failed` is called.
    """

    def on_started(self, key: int, queue_seconds: float) -> None:
        """The request waited so long for its first row; just before its first tokens."""

    def on_tokens(
        self, key: int, index: int, token_ids: list[int], finish: FinishReason, logprobs: list[TokenLogprob] | None
    ) -> None:
        """New tokens of sequence `index`; `finish` is not NONE with the last ones (which may be an empty list)."""

    def on_ended(self, key: int, code: str, message: str, reason: str) -> None:
        """The request is over as a whole. `code` is a Triton error code's name (CANCELLED, UNAVAILABLE, ...).

        `reason`: refused (never accepted), cancelled, deadline, shutdown, internal.
        """

    def on_status(self, status: Status) -> None:
        """The queue became full or has room again (`accepting`), or a drain began (`draining`)."""

    def on_drain(self) -> None:
        """A drain began: new requests are refused by the engine from now on. Called once, before `on_status`."""

    def on_leader(self, acknowledged: Metrics | None) -> None:
        """This front writes the metrics from now on; `acknowledged` is what its predecessor has written."""

    def on_metrics(self, metrics: Metrics) -> None:
        """A snapshot to write; then call `metrics_written(metrics.sequence)`."""

    def on_failed(self, message: str) -> None:
        """The engine failed or is gone; every live request is to end with INTERNAL. Called at most once, the last."""
