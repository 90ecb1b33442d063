"""One request on its way out: the engine's news in, responses out, in order, with one FINAL at the end.

News may come from any thread and never waits for a send. Responses are made by whichever sender thread serves the
stream, one at a time; news that gathered while the previous response was being sent goes out together in the next.

    who            may call
    any thread     push, end, cancelled
    one sender     serve (the pool never serves a stream twice at once)
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from flover_backend.errors import FloverError
from flover_backend.front.detokenizer import TokenBytes
from flover_backend.front.interface import Replies
from flover_backend.front.logs import Log, without_values
from flover_backend.front.parse import OutputOptions
from flover_backend.front.request_log import Ending
from flover_backend.front.responses import content, finish_name
from flover_backend.front.sequence import Sequence, TokenLogprob
from flover_backend.request import FinishReason


class Cancelled(FloverError):
    """The client went away."""

    code = "CANCELLED"
    reason = "cancelled"


class SendFailed(FloverError):
    """Triton would not take a response."""

    reason = "send_failed"


class StreamOwner(Protocol):
    """What a stream asks of the front around it."""

    log: Log

    def schedule(self, stream: Stream) -> None:
        """Let a sender serve the stream."""

    def hasten(self, stream: Stream) -> None:
        """The stream, which waits for its sender, has its last news."""

    def stopped(self, stream: Stream, index: int, num_tokens: int) -> None:
        """A stop string ended sequence `index`."""

    def coalesced(self, saved: int) -> None:
        """A response holds the news of `saved` iterations more than one."""

    def closed(self, stream: Stream, *, abandoned: bool) -> None:
        """FINAL was sent; `abandoned`: although the engine may still be at it."""


@dataclass(frozen=True, slots=True)
class _News:
    index: int
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None
    finish: FinishReason


class Stream:
    """The one ordered queue of a request's responses."""

    def __init__(self, key: int, responder: Replies, owner: StreamOwner, arrival_time: float) -> None:
        """`arrival_time`: `time.monotonic()` seconds."""
        self.key = key
        self.arrival_time = arrival_time
        self.request_id = ""
        self.drawn_seed: int | None = None
        self.queue_seconds: float | None = None
        self.deadline: float | None = None
        """`time.monotonic()` seconds."""
        self.accepted = False
        self.is_counted = False
        """As an accepted one; see `count_once`."""
        self._responder = responder
        self._owner = owner
        self._options = OutputOptions(stream=False)
        self._sequences: list[Sequence] = []
        self._num_input_tokens = 0
        self._token_bytes: TokenBytes | None = None
        self._lock = threading.Lock()
        self._serving = threading.Lock()
        self._make_sequences: Callable[[], list[Sequence]] = list
        self._has_sent = False
        self._is_suspect = False
        self._news: list[_News] = []
        self._error: FloverError | None = None
        self._first_token_time: float | None = None
        self._scheduled = False
        self._closed = False
        self._eager = True
        self._num_open = 1

    @property
    def has_ended(self) -> bool:
        """No news will go out any more: FINAL was sent, or an error is on its way."""
        return self._closed or self._error is not None

    @property
    def outcome(self) -> str:
        """How it ended, once FINAL was sent: finished, cancelled or failed."""
        if self._sequences and all(sequence.finish for sequence in self._sequences):
            return "finished"
        return "cancelled" if isinstance(self._error, Cancelled) else "failed"

    def count_once(self) -> bool:
        """True the first time."""
        with self._lock:
            was_counted, self.is_counted = self.is_counted, True
        return not was_counted

    @property
    def is_ending(self) -> bool:
        """Nothing more will come than the news that is here."""
        return self._num_open == 0 or self.has_ended

    def start(
        self,
        options: OutputOptions,
        make_sequences: Callable[[], list[Sequence]],
        num_input_tokens: int,
        token_bytes: TokenBytes | None,
        *,
        eager: bool,
    ) -> bool:
        """Before the engine gets the request. False when it has ended already (cancelled while it was tokenized).

        `eager`: look at each token as it comes (a stream, or stop strings to find), not only at the end.
        """
        sequences = make_sequences()
        with self._lock:
            self._make_sequences, self._sequences = make_sequences, sequences
            self._options, self._num_input_tokens = options, num_input_tokens
            self._token_bytes, self._eager, self._num_open = token_bytes, eager, len(sequences)
            return self._error is None

    def begin_again(self) -> bool:
        """The engine is gone: forget its news, so that the request can run again as if it had never run.

        False when its client has been sent tokens. One that is ending anyway is left alone.
        """
        with self._serving, self._lock:
            if self.is_ending:
                return True
            if not self._has_sent:
                self._news, self._sequences, self._first_token_time = [], self._make_sequences(), None
                self._num_open = max(1, len(self._sequences))  # none while it is tokenized
            return not self._has_sent

    def failed_engines(self) -> bool:
        """An engine failed that was computing the request: whether it is the second one, so that a third is not risked.

        The first may have failed at a request that was computed beside this one.
        """
        was_suspect, self._is_suspect = self._is_suspect, True
        return was_suspect

    def push(self, index: int, token_ids: list[int], logprobs: list[TokenLogprob] | None, finish: FinishReason) -> None:
        """News of sequence `index`; ignored once the request has ended."""
        with self._lock:
            if self.has_ended:
                return
            if self._first_token_time is None and token_ids:
                self._first_token_time = time.monotonic()
            self._news.append(_News(index, token_ids, logprobs, finish))
            self._num_open -= finish != FinishReason.NONE
            schedule = self._must_schedule()
        self._ask_to_be_served(schedule)

    def end(self, error: FloverError) -> bool:
        """End the request with `error`; what came before goes out first. False when it has ended already."""
        with self._lock:
            if self.has_ended:
                return False
            self._error = error
            schedule = self._must_schedule()
        self._ask_to_be_served(schedule)
        return True

    def client_is_gone(self) -> bool:
        """Ask Triton; a round trip. False once the request has ended."""
        return not self.has_ended and self._responder.is_cancelled()

    def serve(self) -> None:
        """Send what there is to send."""
        with self._serving:
            closed, abandoned = self._serve()
        if closed:
            self._owner.closed(self, abandoned=abandoned)

    def _serve(self) -> tuple[bool, bool]:
        with self._lock:
            news, self._news = self._news, []
            error = self._error
        abandoned = False
        try:
            closed = self._respond(news, error)
        except Exception as problem:  # NOTE: whatever it was, the client must get its FINAL.
            closed = abandoned = True
            self._abandon(problem)
        self._settle(closed)
        return closed, abandoned

    def ending(self) -> Ending:
        """How the request ended, for the log."""
        finished = bool(self._sequences) and all(sequence.finish for sequence in self._sequences)
        if self._error is None or (finished and not isinstance(self._error, SendFailed)):
            reason, code = ",".join(dict.fromkeys(finish_name(one.finish) for one in self._sequences)), "OK"
        else:
            reason, code = self._error.reason, self._error.code
        return Ending(
            self.key,
            self.request_id,
            reason,
            code,
            self.accepted,
            self._options.stream,
            max(1, len(self._sequences)),
            self._num_input_tokens,
            sum(sequence.num_tokens for sequence in self._sequences),
            self.arrival_time,
            self._first_token_time,
            time.monotonic(),
            self.drawn_seed,
            self.queue_seconds,
        )

    def _ask_to_be_served(self, schedule: bool) -> None:
        if schedule:
            self._owner.schedule(self)
        elif self.is_ending:
            self._owner.hasten(self)

    def _must_schedule(self) -> bool:
        """Under the lock: whether the caller has to schedule the stream now."""
        if self._scheduled or not self._has_work():
            return False
        self._scheduled = True
        return True

    def _has_work(self) -> bool:
        return self._error is not None or (bool(self._news) and (self._eager or self._num_open == 0))

    def _settle(self, closed: bool) -> None:
        with self._lock:
            self._closed = closed
            self._scheduled = False
            schedule = not closed and self._must_schedule()
        if schedule:
            self._owner.schedule(self)

    def _respond(self, news: list[_News], error: FloverError | None) -> bool:
        """True when FINAL was sent."""
        for item in news:
            sequence = self._sequences[item.index]
            if not sequence.finish and sequence.take(item.token_ids, item.logprobs, item.finish):
                self._owner.stopped(self, item.index, sequence.num_tokens)
        if self._sequences and all(sequence.finish for sequence in self._sequences):
            self._send_content(news, final=True)
            return True
        if self._options.stream and news and not isinstance(error, Cancelled):
            self._send_content(news, final=False)
        if error is not None:
            self._responder.fail(error)
        return error is not None

    def _send_content(self, news: list[_News], *, final: bool) -> None:
        outputs = content(self._options, self._sequences, self._num_input_tokens, self._token_bytes)
        iterations = max(Counter(item.index for item in news).values(), default=1)
        if self._options.stream and iterations > 1:
            self._owner.coalesced(iterations - 1)
        self._has_sent = True
        self._responder.send(outputs, final=final)

    def _abandon(self, problem: Exception) -> None:
        self._owner.log.error(f"request {self.key}: its response could not be sent: {without_values(problem)}")
        self._error = SendFailed(f"the response could not be sent: {problem}")
        if self._responder.closed:
            return
        try:
            self._responder.fail(self._error)
        except Exception as second:
            self._owner.log.error(f"request {self.key}: nor could the error be sent: {without_values(second)}")
