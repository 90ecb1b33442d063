"""The engine's main loop: what fronts and tools ask goes to the core, what an iteration yields goes back.

Knows messages, the core's interface and the accepted requests. Sockets are `connections`' business, rows and blocks
the core's. At each iteration boundary the inbox is emptied, until the next plan is due (pacing.py); when there is
nothing to compute it blocks on the inbox.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import time
from collections.abc import Callable
from typing import NoReturn

import msgspec

from flover_backend.channel import (
    Cancel,
    Drain,
    Ended,
    EngineInfo,
    Finish,
    FrontStats,
    GetIterations,
    GetMetrics,
    Iterations,
    MetricsWritten,
    Ready,
    Refused,
    Status,
    Submit,
    ToEngine,
)
from flover_backend.engine.connections import Connections
from flover_backend.engine.drain import DrainState
from flover_backend.engine.held import EndedRequest
from flover_backend.engine.interface import EngineCore, RequestEnded, SequenceUpdate
from flover_backend.engine.live import LiveRequest, LiveRequests
from flover_backend.engine.outgoing import FrontNews
from flover_backend.engine.peer import Attached, Detached, Event
from flover_backend.engine.pulse import Pulse
from flover_backend.engine.reporter import MetricsReporter
from flover_backend.engine.ring import IterationRing
from flover_backend.engine.submitted import check_submitted
from flover_backend.errors import Draining, FloverError, InvalidRequest, QueueFull
from flover_backend.request import FinishReason, Request

log = logging.getLogger(__name__)

LOOK_S = 0.5e-3
"""While a plan is not due: how often to see whether the device has ended before it was expected to."""
ENDED_CODES = {FinishReason.CANCELLED: "CANCELLED", FinishReason.DEADLINE: "UNAVAILABLE"}


class EngineService:
    """Serves the fronts with one core until the process ends."""

    def __init__(
        self,
        core: EngineCore,
        info: EngineInfo,
        connections: Connections,
        clock: Callable[[], float] = time.monotonic,
        *,
        is_restart: bool = False,
    ) -> None:
        """`is_restart`: in place of an engine that died."""
        self._core = core
        self._info = info
        self._connections = connections
        self._clock = clock
        self._pulse = Pulse(core)
        self._live = LiveRequests()
        self._ring = IterationRing()
        self._reporter = MetricsReporter(info, connections.post)
        self._metrics = self._reporter.metrics
        self._drain = DrainState(is_restart)
        self._fronts: list[int] = []
        self._status = Status(0, 0, accepting=True, draining=False)
        self._is_idle = True

    def run(self) -> NoReturn:
        """Serve. Raises what an iteration raises: the engine cannot go on after that."""
        self._connections.watch(self._pulse)
        while True:
            self.turn()

    def turn(self) -> None:
        """One iteration boundary and, if there is work, one iteration."""
        self._pulse.begin()
        self._receive()
        if self._core.has_work:
            self._iterate()
        elif not self._is_idle:
            self._fall_idle()
        self._end_drain()
        self._send_status()
        self._reporter.report(self._core.gauges, self._clock(), self._is_idle)

    def _receive(self) -> None:
        inbox = self._connections.inbox
        try:
            if self._is_idle and not self._core.has_work:
                self._handle(*self._await_event())
            for _ in range(inbox.qsize()):
                self._handle(*inbox.get_nowait())
        except queue.Empty:
            pass
        while self._core.has_work and (early := self._core.plan_due - self._clock()) > 0:
            with contextlib.suppress(queue.Empty):
                self._handle(*inbox.get(timeout=min(early, LOOK_S)))

    def _await_event(self) -> Event:
        """Raises queue.Empty when there is something to report first."""
        self._pulse.rest()
        now = self._clock()
        waits = (self._reporter.seconds_to_next(now), self._drain.seconds_to_answer(now))
        try:
            return self._connections.inbox.get(timeout=min((wait for wait in waits if wait is not None), default=None))
        finally:
            self._pulse.begin()

    def _handle(self, connection: int, event: Attached | Detached | ToEngine) -> None:
        match event:
            case Attached(hello):
                self._attach(connection, is_front=hello.role == "front")
            case Detached():
                self._detach(connection)
            case Submit(request, again):
                self._submit(connection, request, again)
            case Cancel(key):
                if self._live.is_of(connection, key):
                    self._core.cancel(key)
            case Finish(key, index, num_tokens):
                self._finish(connection, key, index, num_tokens)
            case FrontStats() if connection in self._fronts:
                self._reporter.front_stats(event)
            case MetricsWritten(sequence):
                self._reporter.written(connection, sequence)
            case Drain():
                self._begin_drain(connection, event)
            case GetIterations(since_step):
                self._connections.post(connection, Iterations(self._ring.since(since_step)))
            case GetMetrics():
                self._connections.post(connection, self._metrics.snapshot(self._core.gauges))

    def _attach(self, connection: int, is_front: bool) -> None:
        self._connections.post(connection, Ready(msgspec.structs.replace(self._info, front_number=connection)))
        if not is_front:
            return
        self._fronts.append(connection)
        self._drain.attached(self._clock())
        if not self._status.accepting:
            self._connections.post(connection, self._status)
        self._reporter.attached(connection)

    def _detach(self, connection: int) -> None:
        if connection not in self._fronts:
            return
        self._fronts.remove(connection)
        for key in self._live.of_connection(connection):
            self._core.cancel(key)
        self._reporter.detached(connection)

    def _submit(self, connection: int, request: Request, again: bool) -> None:
        try:
            self._check(connection, request, again)
            self._core.add(request, again=again)
            self._live.add(connection, request)
            if self._drain.is_cutting:
                self._core.cancel(request.key)
        except FloverError as error:
            self._refuse(connection, request.key, error.code, str(error), _reject_reason(error))
        except Exception as error:  # NOTE: `add` changes nothing when it raises: one request must not end the engine.
            log.exception("request %d could not be queued", request.key)
            self._refuse(connection, request.key, "INTERNAL", f"the request could not be queued: {error!r}", "internal")

    def _check(self, connection: int, request: Request, again: bool) -> None:
        if self._drain.is_draining and not again:
            raise Draining("the server is draining: new requests are refused")
        if connection not in self._fronts or request.key >> 40 != connection or self._live.get(request.key):
            raise InvalidRequest(f"key {request.key} is not a new key of front {connection}")
        check_submitted(request, self._info, self._clock())

    def _refuse(self, connection: int, key: int, code: str, message: str, reason: str) -> None:
        self._connections.post(connection, Refused(key, code, message))
        self._reporter.rejected(reason)

    def _finish(self, connection: int, key: int, index: int, num_tokens: int) -> None:
        live = self._live.get(key)
        if live is None:
            self._reporter.stopped_late(connection, key, index, num_tokens)
        elif live.connection == connection and 0 <= index < len(live.sequences):
            live.sequences[index].finish_at = num_tokens
            self._core.finish(key, index, num_tokens)

    def _iterate(self) -> None:
        self._is_idle = False
        updates = self._core.step()
        now = self._clock()
        stats = self._core.last_stats
        if stats is not None:
            self._ring.append(stats.iteration)
            self._metrics.iteration(stats)
            for live in filter(None, map(self._live.get, stats.started_keys)):
                live.queue_seconds = stats.iteration.time - live.arrival_time
                self._metrics.started(live.queue_seconds)
        self._publish(updates, now)
        self._reporter.touch()

    def _publish(self, updates: list[SequenceUpdate | RequestEnded], now: float) -> None:
        news: dict[int, FrontNews] = {}
        for update in sorted(updates, key=self._can_wait):
            live = self._live.get(update.key)
            if live is None:
                continue
            front = news.setdefault(live.connection, FrontNews())
            if isinstance(update, RequestEnded):
                self._end_whole(front, live, update, now)
            else:
                self._pass_on(front, live, update, now)
        for connection, front in news.items():
            for message in front.messages():
                self._connections.post(connection, message)

    def _can_wait(self, update: SequenceUpdate | RequestEnded) -> bool:
        """First tokens go out first: whoever waits for one has waited for a whole prompt."""
        live = self._live.get(update.key)
        return live is None or live.has_first_token

    def _pass_on(self, front: FrontNews, live: LiveRequest, update: SequenceUpdate, now: float) -> None:
        sequence = live.sequences[update.index]
        self._metrics.tokens(live, sequence, len(update.token_ids), now)
        if update.token_ids and not live.has_first_token:
            live.has_first_token = True
            if live.queue_seconds is not None:
                front.queue_seconds[live.key] = live.queue_seconds
        sequence.num_tokens += len(update.token_ids)
        sequence.last_time = now
        front.add(update)
        if update.finish is not FinishReason.NONE:
            sequence.ended = True
            if live.is_over:
                self._over(EndedRequest(live, update.finish.name.lower(), now, update.index))

    def _end_whole(self, front: FrontNews, live: LiveRequest, update: RequestEnded, now: float) -> None:
        reason, code, text = update.reason.name.lower(), ENDED_CODES.get(update.reason, "INTERNAL"), update.message
        cut = self._drain.is_cutting and update.reason is FinishReason.CANCELLED
        if cut:
            reason, code, text = "shutdown", "UNAVAILABLE", "the server shut down before the request was finished"
        front.ended.append(Ended(update.key, code, text, reason))
        self._over(EndedRequest(live, reason, now, last_index=len(live.sequences) - 1))

    def _over(self, ended: EndedRequest) -> None:
        self._drain.request_ended(cut=ended.reason == "shutdown")
        self._live.remove(ended.live.key)
        self._reporter.ended(ended)

    def _fall_idle(self) -> None:
        self._is_idle = True
        self._reporter.touch()
        try:
            self._core.check_integrity()
            assert not len(self._live), f"{len(self._live)} requests are live while the core has no work"
        except AssertionError as error:
            self._metrics.integrity_failure()
            log.error("integrity check failed while idle: %s", error)

    def _begin_drain(self, connection: int, message: Drain) -> None:
        if self._drain.begin(connection, message, self._clock()):
            log.info("draining: %d requests have %g s to finish", len(self._live), message.timeout_s)

    def _end_drain(self) -> None:
        if self._drain.is_due(self._clock()):
            for key in self._live.all_keys():
                self._core.cancel(key)
        for connection, answer in self._drain.answers(len(self._live), self._clock()):
            log.info("drained: %d requests finished, %d were ended", answer.finished, answer.ended)
            self._connections.post(connection, answer)

    def _send_status(self) -> None:
        gauges = self._core.gauges
        has_room = (
            gauges.num_waiting < self._info.max_queued_requests
            and gauges.num_waiting_tokens < self._info.max_queued_tokens
        )
        draining = self._drain.is_draining
        accepting = has_room and not draining
        if (accepting, draining) != (self._status.accepting, self._status.draining):
            self._status = Status(gauges.num_waiting, gauges.num_waiting_tokens, accepting, draining)
            self._connections.broadcast(self._status)


def _reject_reason(error: FloverError) -> str:
    if isinstance(error, Draining):
        return "draining"
    return "queue_full" if isinstance(error, QueueFull) else "invalid_arg"
