"""What the service needs of the parts around it, which differ with what the front is bound in.

The engine's client, the metrics' writer, the way of one request's responses, and who decides when they go.
"""

from __future__ import annotations

from typing import Protocol

from flover_backend.channel import EngineInfo, Metrics
from flover_backend.errors import FloverError
from flover_backend.front.responses import Outputs
from flover_backend.request import Request


class Client(Protocol):
    """front/supervisor.py's EngineSupervisor, as the service uses it. Any thread may call."""

    info: EngineInfo

    def next_key(self) -> int:
        """A key that no other request of the engine has."""

    def submit(self, request: Request) -> None:
        """Answered through the handler. Raises `EngineFailed` when there is no engine any more."""

    def forget(self, key: int) -> None:
        """The request has had its end."""

    def cancel(self, key: int) -> None:
        """The request is of no use any more."""

    def finish(self, key: int, index: int, num_tokens: int) -> None:
        """A stop string ended sequence `index` after its `num_tokens`-th token."""

    def front_stats(self, coalesced_responses: int = 0, rejected: dict[str, int] | None = None) -> None:
        """Increments of what only a front can count."""

    def close(self) -> None:
        """Leave the engine. Bounded."""


class MetricsSink(Protocol):
    """front/metrics_export.py's MetricsWriter, as the service uses it."""

    def on_leader(self, acknowledged: Metrics | None) -> None:
        """This front writes from now on; `acknowledged` is what its predecessor has written."""

    def on_metrics(self, metrics: Metrics) -> None:
        """A snapshot to write."""

    def count(self, increments: dict[str, int]) -> None:
        """Add to series that every front writes its own share of."""

    def on_engine_gone(self) -> None:
        """The engine has failed: no snapshot will come any more."""

    def close(self, timeout_s: float) -> bool:
        """End; False when it took longer than `timeout_s`."""


class Replies(Protocol):
    """Where the responses of one request go: front/responses.py's Responder in a Triton stub."""

    @property
    def closed(self) -> bool:
        """The last response was sent, or sending it was tried."""

    def is_cancelled(self) -> bool:
        """Whether the client is known to be gone; any thread may ask."""

    def send(self, outputs: Outputs, *, final: bool) -> None:
        """One content response."""

    def fail(self, error: FloverError) -> None:
        """An error, the last response."""


class Servable(Protocol):
    """Has something to send: a stream."""

    @property
    def is_ending(self) -> bool:
        """The next response is the last."""

    def serve(self) -> None:
        """Send it. Never raises."""


class Senders(Protocol):
    """Who serves streams, each by one thread at a time: front/sender.py's SenderPool in a Triton stub."""

    def schedule(self, stream: Servable) -> None:
        """Serve `stream` soon. The caller sees to it that it is not already waiting."""

    def hasten(self, stream: Servable) -> None:
        """`stream`, which waits, is ending: there is nothing more to wait for."""

    def close(self, timeout_s: float) -> bool:
        """Serve what waits, then end; False when that took longer than `timeout_s`."""
