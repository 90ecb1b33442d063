"""What the service needs of the parts that reach other processes: the engine's client and the metrics' writer."""

from __future__ import annotations

from typing import Protocol

from flover_backend.channel import EngineInfo, Metrics
from flover_backend.request import Request


class Client(Protocol):
    """front/client.py's EngineClient, as the service uses it. Any thread may call."""

    info: EngineInfo

    def next_key(self) -> int:
        """A key that no other request of the engine has."""

    def submit(self, request: Request) -> None:
        """Answered through the handler. Raises `EngineFailed` when the engine is gone."""

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

    def close(self, timeout_s: float) -> bool:
        """End; False when it took longer than `timeout_s`."""
