"""Which front writes the metrics, and what is known to be written. Knows connections by number only."""

from __future__ import annotations

from flover_backend.channel import Metrics

MAX_UNACKNOWLEDGED = 256


class MetricsLeadership:
    """The first attached front leads; when it goes, the next in order of attachment takes over.

    The new leader is told the last snapshot that was acknowledged, so that it adds only what is missing. What a
    leader wrote and did not acknowledge before it died (at most one snapshot's worth) is counted twice.
    """

    def __init__(self) -> None:
        self.acknowledged: Metrics | None = None
        self._fronts: list[int] = []
        self._sent: dict[int, Metrics] = {}

    @property
    def leader(self) -> int | None:
        """Its connection; None when there are no fronts."""
        return self._fronts[0] if self._fronts else None

    def attached(self, front: int) -> bool:
        """True when `front` leads now."""
        self._fronts.append(front)
        return self.leader == front

    def detached(self, front: int) -> int | None:
        """The new leader, if `front` led and another takes over."""
        led = self.leader == front
        self._fronts.remove(front)
        self._sent = {} if led else self._sent
        return self.leader if led else None

    def sent(self, metrics: Metrics) -> None:
        """A snapshot went to the leader."""
        self._sent[metrics.sequence] = metrics
        while len(self._sent) > MAX_UNACKNOWLEDGED:
            del self._sent[next(iter(self._sent))]

    def written(self, front: int, sequence: int) -> None:
        """`front` says that it has written snapshot `sequence`; others than the leader are ignored."""
        if front == self.leader and sequence in self._sent:
            self.acknowledged = self._sent[sequence]
            self._sent = {number: metrics for number, metrics in self._sent.items() if number > sequence}
