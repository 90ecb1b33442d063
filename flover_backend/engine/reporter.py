"""What is counted, when it is counted, and who is told: the engine's metrics on their way to the leading front.

Knows ends of requests and connections' numbers; the arithmetic is `metrics`, the leader's choice `leadership`.
"""

from __future__ import annotations

from collections.abc import Callable

from flover_backend.channel import EngineInfo, FrontStats, Leader, ToFront
from flover_backend.engine.held import EndedRequest, HeldRequests
from flover_backend.engine.interface import EngineGauges
from flover_backend.engine.leadership import MetricsLeadership
from flover_backend.engine.metrics import EngineMetrics

INTERVAL_S = 0.5
IDLE_INTERVAL_S = 0.02
"""An engine that falls idle a thousand times a second does not say so each time."""
HEARTBEAT_S = 2.0
"""An idle engine says how it is so often: the engine that it replaced in a reload ends later, and writes to the same
gauges until then."""


class MetricsReporter:
    """Sends the leader a snapshot: every 0.5 s while the engine runs, every 2 s while it is idle, and on a change."""

    def __init__(self, info: EngineInfo, post: Callable[[int, ToFront], None]) -> None:
        """`post(connection, message)` sends."""
        self.metrics = EngineMetrics(info)
        self._post = post
        self._leadership = MetricsLeadership()
        self._held = HeldRequests()
        self._is_due = False
        self._last_snapshot = 0.0

    def touch(self) -> None:
        """Something has changed that the leader has not been told."""
        self._is_due = True

    def attached(self, front: int) -> None:
        """The first front leads."""
        if self._leadership.attached(front):
            self._make_leader(front)

    def detached(self, front: int) -> None:
        """The leader's end makes the next front the leader."""
        successor = self._leadership.detached(front)
        if successor is not None:
            self._make_leader(successor)

    def written(self, front: int, sequence: int) -> None:
        """A front says that it has written a snapshot."""
        self._leadership.written(front, sequence)

    def front_stats(self, stats: FrontStats) -> None:
        """A front says what only it can count."""
        self.metrics.front(stats)
        self.touch()

    def rejected(self, reason: str) -> None:
        """The engine has refused a request."""
        self.metrics.rejected(reason)
        self.touch()

    def ended(self, ended: EndedRequest) -> None:
        """A request is over; where its front may yet find a stop string it is counted later."""
        if ended.may_stop:
            self._held.hold(ended)
        else:
            self._count(ended)

    def stopped_late(self, connection: int, key: int, index: int, num_tokens: int) -> None:
        """A front has found a stop string in a request that is over."""
        ended = self._held.stopped(connection, key, index, num_tokens)
        if ended is not None:
            self._count(ended)

    def seconds_to_next(self, now: float) -> float | None:
        """Until an idle engine has something to do here; None when there is nothing."""
        waits = [self._held.seconds_left(now)]
        if self._leadership.leader is not None:
            interval = IDLE_INTERVAL_S if self._is_due else HEARTBEAT_S
            waits.append(max(0.0, self._last_snapshot + interval - now))
        return min((wait for wait in waits if wait is not None), default=None)

    def report(self, gauges: EngineGauges, now: float, is_idle: bool) -> None:
        """Send a snapshot if one is due."""
        for ended in self._held.due(now):
            self._count(ended)
        leader = self._leadership.leader
        interval = INTERVAL_S if not is_idle else IDLE_INTERVAL_S if self._is_due else HEARTBEAT_S
        if leader is None or now - self._last_snapshot < interval:
            return
        snapshot = self.metrics.snapshot(gauges)
        self._leadership.sent(snapshot)
        self._post(leader, snapshot)
        self._last_snapshot = now
        self._is_due = not is_idle

    def _count(self, ended: EndedRequest) -> None:
        self.metrics.request_ended(ended)
        self.touch()

    def _make_leader(self, front: int) -> None:
        self._post(front, Leader(self._leadership.acknowledged))
        self._last_snapshot = 0.0
        self.touch()
