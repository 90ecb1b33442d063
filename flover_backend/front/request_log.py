"""One log line a request, at its end: who, how large, why it ended, when. Never its prompt, text or stop strings.

A line is a call of Triton's logger, dear beside a token: senders only leave what is to be said, a thread of its own
says it. Every accepted request has its line; of refusals, which may come by the thousand, a bounded number a second,
and the rest as a sum.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass

from flover_backend.front.logs import Log

MESSAGE = "request"
REFUSED_MESSAGE = "requests refused"
FLUSH_INTERVAL_S = 0.1
REFUSAL_LINES = 10
"""Refused requests with a line of their own in one `REFUSAL_PERIOD_S`, of each front."""
REFUSAL_PERIOD_S = 1.0
REQUEST_ID_LENGTH = 128

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Ending:
    """A request that has had its FINAL. Times are `time.monotonic()` seconds."""

    key: int
    request_id: str
    """The client's own."""
    reason: str
    """A finish reason (n > 1: all that occurred), or why there was an error."""
    code: str
    """Of the error that the client got, or OK."""
    accepted: bool
    """Whether the engine took it in."""
    stream: bool
    n: int
    prompt_tokens: int
    """0 when it ended before its prompt was tokens."""
    output_tokens: int
    """Of all n sequences."""
    arrival_time: float
    first_token_time: float | None
    end_time: float
    drawn_seed: int | None = None
    """None when the client gave one, or none was needed."""
    queue_seconds: float | None = None
    """From arrival to its first row, as the engine says; None when it never had a token."""


class RequestLog:
    """Takes endings from any thread; `flush` writes what came since the last time."""

    def __init__(self, log: Log, clock: Callable[[], float] = time.monotonic) -> None:
        self._log = log
        self._clock = clock
        self._endings: deque[Ending] = deque()
        self._lock = threading.Lock()  # for what follows
        self._period_start = clock()
        self._refusal_lines = 0
        self._summed: Counter[tuple[str, str]] = Counter()

    def ended(self, ending: Ending) -> None:
        """Remember it for the next flush, or only its reason when too many were refused in this second."""
        if not ending.accepted:
            with self._lock:
                self._refusal_lines += 1
                if self._refusal_lines > REFUSAL_LINES:
                    self._summed[ending.reason, ending.code] += 1
                    return
        self._endings.append(ending)

    def flush(self, *, last: bool = False) -> None:
        """Write the lines. `last`: also the sums of a period that is not over."""
        while self._endings:
            self._log.info(MESSAGE, **_fields(self._endings.popleft()))
        now = self._clock()
        with self._lock:
            seconds = now - self._period_start
            if seconds < REFUSAL_PERIOD_S and not last:
                return
            summed, self._summed = self._summed, Counter()
            self._period_start, self._refusal_lines = now, 0
        for (reason, code), count in summed.items():
            self._log.info(REFUSED_MESSAGE, count=count, seconds=round(seconds, 1), reason=reason, code=code)


def _fields(ending: Ending) -> dict[str, object]:
    first = ending.first_token_time
    fields: dict[str, object] = {
        "id": clean_id(ending.request_id) or None,
        "key": ending.key,
        "reason": ending.reason,
        "code": ending.code,
        "prompt_tokens": ending.prompt_tokens,
        "output_tokens": ending.output_tokens,
        "n": ending.n,
        "stream": ending.stream,
        "queue_ms": None if ending.queue_seconds is None else _milliseconds(ending.queue_seconds),
        "first_token_ms": None if first is None else _milliseconds(first - ending.arrival_time),
        "total_ms": _milliseconds(ending.end_time - ending.arrival_time),
    }
    if ending.accepted and ending.drawn_seed is not None:
        fields["seed"] = str(ending.drawn_seed)  # readers of JSON round numbers of 64 bits
    return fields


def clean_id(request_id: str) -> str:
    """A client's id as a log may hold it: no control characters or ends of lines, of bounded length."""
    cut = request_id[:REQUEST_ID_LENGTH]
    return _CONTROL.sub("?", cut) + ("..." if len(request_id) > REQUEST_ID_LENGTH else "")


def _milliseconds(seconds: float) -> float:
    return round(1000 * seconds, 1)
