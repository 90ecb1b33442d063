"""A front without Triton: an EngineHandler that records what it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from flover_backend.channel import Metrics, Status
from flover_backend.front.client import EngineClient
from flover_backend.front.engine_news import TokenLogprob
from flover_backend.request import FinishReason, Request, SamplingParams

WAIT_S = 30.0


class Recorder:
    def __init__(self) -> None:
        self.tokens: dict[tuple[int, int], list[int]] = {}
        self.finish: dict[tuple[int, int], FinishReason] = {}
        self.logprobs: list[TokenLogprob] = []
        self.ended: dict[int, tuple[str, str, str]] = {}
        self.queue_seconds: dict[int, float] = {}
        self.statuses: list[Status] = []
        self.metrics: list[Metrics] = []
        self.leader: list[Metrics | None] = []
        self.failed: list[str] = []
        self.drains = 0
        self.num_ends_twice = 0
        self._news = threading.Condition()

    def on_started(self, key: int, queue_seconds: float) -> None:
        assert (key, 0) not in self.tokens
        self._record(lambda: self.queue_seconds.__setitem__(key, queue_seconds))

    def on_tokens(
        self, key: int, index: int, token_ids: list[int], finish: FinishReason, logprobs: list[TokenLogprob] | None
    ) -> None:
        with self._news:
            self.num_ends_twice += (key, index) in self.finish or key in self.ended
            self.tokens.setdefault((key, index), []).extend(token_ids)
            self.logprobs += logprobs or []
            if finish:
                self.finish[key, index] = finish
            self._news.notify_all()

    def on_ended(self, key: int, code: str, message: str, reason: str) -> None:
        self.num_ends_twice += key in self.ended
        self._record(lambda: self.ended.__setitem__(key, (code, message, reason)))

    def on_status(self, status: Status) -> None:
        self._record(lambda: self.statuses.append(status))

    def on_drain(self) -> None:
        with self._news:
            self.drains += 1

    def on_leader(self, acknowledged: Metrics | None) -> None:
        self._record(lambda: self.leader.append(acknowledged))

    def on_metrics(self, metrics: Metrics) -> None:
        self._record(lambda: self.metrics.append(metrics))

    def on_failed(self, message: str) -> None:
        self._record(lambda: self.failed.append(message))

    def wait(self, condition: Callable[[], object], what: str = "news") -> None:
        with self._news:
            assert self._news.wait_for(condition, WAIT_S), f"no {what} within {WAIT_S} s"

    def wait_finished(self, *keys: int) -> None:
        self.wait(lambda: all((key, 0) in self.finish for key in keys), "end of the requests")

    def wait_ended(self, *keys: int) -> None:
        self.wait(lambda: all(key in self.ended for key in keys), "end of the requests")

    def _record(self, change: Callable[[], None]) -> None:
        with self._news:
            change()
            self._news.notify_all()


def request(
    client: EngineClient, prompt_ids: list[int], max_tokens: int = 8, has_stop_strings: bool = False, **params: object
) -> Request:
    return Request(
        key=client.next_key(),
        prompt_ids=prompt_ids,
        params=SamplingParams(max_tokens=max_tokens, **params),  # type: ignore[arg-type]
        arrival_time=time.monotonic(),
        has_stop_strings=has_stop_strings,
    )
