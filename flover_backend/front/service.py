"""A front's life with its engine: takes requests in, passes the engine's news to their streams, ends them all.

Puts the parts together, each of which owns its resource. Knows Triton only through `Incoming`. Threads: Triton's
(`accept`), a small pool that tokenizes, the client's reader (the `on_...` methods), the senders', one for chores, and
one that writes the requests' log lines.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from flover_backend.channel import Metrics, Status
from flover_backend.errors import EngineFailed, FloverError
from flover_backend.front.admission import Admission
from flover_backend.front.cancellation import SWEEP_INTERVAL_S, CancellationSweep
from flover_backend.front.counters import FrontCounters
from flover_backend.front.deadlines import DeadlineSweep
from flover_backend.front.engine_errors import error_of
from flover_backend.front.generation import Generation
from flover_backend.front.incoming import Incoming
from flover_backend.front.interface import Client, MetricsSink, Replies, Senders
from flover_backend.front.live import LiveRequests
from flover_backend.front.logs import Log, without_values
from flover_backend.front.parse import ParsedRequest, RequestParser, check_ids, sampling_params
from flover_backend.front.periodic import Periodic
from flover_backend.front.replaced import Replaced
from flover_backend.front.request_log import FLUSH_INTERVAL_S, RequestLog
from flover_backend.front.sequence import Sequence, TokenLogprob
from flover_backend.front.stream import Cancelled, Stream
from flover_backend.front.tokenizer import Tokenizer
from flover_backend.request import FinishReason, Request, SamplingParams

TOKENIZER_THREADS = 2
CLOSE_STREAMS_S = CLOSE_THREADS_S = 2.0


class FrontService:
    """Serves requests with one engine client. `on_...` methods are the client's handler (front/client.py)."""

    def __init__(
        self,
        client: Client,
        tokenizer: Tokenizer | None,
        metrics: MetricsSink,
        log: Log,
        senders: Senders,
        *,
        header_prefix: str | None = None,
    ) -> None:
        self.log = log
        self.on_dead: Callable[[], None] = lambda: None
        """Called when there is no engine any more and every request has had its end."""
        self._is_closing = False
        self._client = client
        self._tokenizer = tokenizer
        self._metrics = metrics
        self._parser = RequestParser(client.info, has_tokenizer=tokenizer is not None, header_prefix=header_prefix)
        self._admission = Admission(client.info)
        self._live = LiveRequests()
        self._counters = FrontCounters(client.front_stats, metrics.count)
        self._senders = senders
        self._tokenizing = ThreadPoolExecutor(TOKENIZER_THREADS, thread_name_prefix="tokenizer")
        self._requests = RequestLog(log)
        self._to_do: list[Callable[[], None]] = [
            CancellationSweep(self._live, self._cancel),
            DeadlineSweep(self._live, self._admission),
            self._counters.flush,
        ]
        self._chores = Periodic(SWEEP_INTERVAL_S, self._to_do, log)
        self._log_writer = Periodic(FLUSH_INTERVAL_S, [self._requests.flush], log)

    def accept(self, responder: Replies, copy_out: Callable[[], Incoming]) -> None:
        """Take a request in; its responses, refusals too, come from the sender threads. Does not raise or block.

        `copy_out` is called at most once, before this returns; not for a request that there is no room for.
        """
        arrival_time = time.monotonic()
        stream = Stream(self._client.next_key(), responder, self, arrival_time)
        self._live.add(stream)
        try:
            self._admission.enter()
        except FloverError as error:
            return self._refuse(stream, error)
        try:
            incoming = copy_out()
            stream.request_id = incoming.request_id
            parsed = self._parser.parse(
                incoming.arrays, incoming.request_parameters, incoming.wants_text, incoming.timeout_us
            )
            if parsed.text is None:
                self._submit(stream, parsed, parsed.prompt_ids or [], arrival_time)
                self._admission.leave()
            else:
                self._tokenizing.submit(self._tokenize, stream, parsed, parsed.text, arrival_time)
        except Exception as error:
            self._admission.leave()
            self._refuse(stream, self._as_flover_error(stream, error))

    def make_way(self, generation: Generation) -> None:
        """From now on give the engine up when a later load has taken over."""
        self._to_do.append(Replaced(self._admission, self._live, self._client, generation, self.log))

    def is_ready(self) -> bool:
        """Whether a request would be taken, but for the queue's depth."""
        return self._admission.is_open

    def _tokenize(self, stream: Stream, parsed: ParsedRequest, text: str, arrival_time: float) -> None:
        try:
            if self._live.get(stream.key) is not None and self._tokenizer is not None:
                ids = check_ids("text_input", self._tokenizer.encode(text), self._client.info)
                self._submit(stream, parsed, ids, arrival_time)
        except Exception as error:
            self._refuse(stream, self._as_flover_error(stream, error))
        finally:
            self._admission.leave()

    def _submit(self, stream: Stream, parsed: ParsedRequest, prompt_ids: list[int], arrival_time: float) -> None:
        info = self._client.info
        params = sampling_params(parsed, len(prompt_ids), info)
        token_bytes = self._tokenizer.token_bytes if self._tokenizer is not None else None
        eager = parsed.outputs.stream or bool(parsed.stop)
        make = partial(self._sequences, parsed, params)
        if not stream.start(parsed.outputs, make, len(prompt_ids), token_bytes, eager=eager):
            return
        if "seed" not in parsed.values and params.temperature > 0:
            stream.drawn_seed = params.seed
        stream.deadline = None if parsed.deadline_s is None else arrival_time + parsed.deadline_s
        stream.accepted = True
        self._client.submit(
            Request(
                key=stream.key,
                prompt_ids=prompt_ids,
                params=params,
                arrival_time=arrival_time,
                deadline=stream.deadline,
                has_stop_strings=bool(parsed.stop),
            )
        )
        if stream.has_ended:
            # NOTE: it was cancelled meanwhile, and that message may have overtaken this one.
            self._client.cancel(stream.key)
            self._client.forget(stream.key)

    def _sequences(self, parsed: ParsedRequest, params: SamplingParams) -> list[Sequence]:
        eos_token_ids = self._client.info.eos_token_ids
        return [Sequence.of(parsed, params, self._tokenizer, eos_token_ids) for _ in range(params.n)]

    def _as_flover_error(self, stream: Stream, error: Exception) -> FloverError:
        if isinstance(error, FloverError):
            return error
        self.log.error(f"request {stream.key} could not be read: {without_values(error)}")
        return FloverError(f"the request could not be read: {error}")

    def _refuse(self, stream: Stream, error: FloverError) -> None:
        stream.accepted = False
        if stream.end(error):
            self._counters.rejected(error)

    def _cancel(self, stream: Stream) -> None:
        if stream.end(Cancelled("cancelled by the client")):
            self._client.cancel(stream.key)

    def _count_accepted(self, stream: Stream) -> None:
        if stream.count_once():
            self._counters.accepted()

    # what streams ask (StreamOwner)

    def schedule(self, stream: Stream) -> None:
        """Let a sender serve the stream."""
        self._senders.schedule(stream)

    def hasten(self, stream: Stream) -> None:
        """The stream waits for its sender, and has its last news."""
        self._senders.hasten(stream)

    def stopped(self, stream: Stream, index: int, num_tokens: int) -> None:
        """Tell the engine of a stop string."""
        self._client.finish(stream.key, index, num_tokens)

    def coalesced(self, saved: int) -> None:
        """Count responses that were saved because several iterations' news went out in one."""
        self._counters.coalesced(saved)

    def closed(self, stream: Stream, *, abandoned: bool) -> None:
        """The request has had its FINAL."""
        self._requests.ended(stream.ending())
        if stream.accepted:
            self._count_accepted(stream)
            self._counters.ended(stream.outcome)
        self._live.remove(stream.key)
        self._client.forget(stream.key)
        if abandoned:
            self._client.cancel(stream.key)

    # the engine's news (EngineHandler)

    def on_started(self, key: int, queue_seconds: float) -> None:
        """For the request's log line."""
        stream = self._live.get(key)
        if stream is not None:
            stream.queue_seconds = queue_seconds

    def on_tokens(
        self, key: int, index: int, token_ids: list[int], finish: FinishReason, logprobs: list[TokenLogprob] | None
    ) -> None:
        """Queue them for their stream, if it still lives."""
        stream = self._live.get(key)
        if stream is not None:
            if not stream.is_counted:
                self._count_accepted(stream)
            stream.push(index, token_ids, logprobs, finish)

    def on_ended(self, key: int, code: str, message: str, reason: str) -> None:
        """The engine ended the request as a whole."""
        stream = self._live.get(key)
        if stream is not None:
            stream.accepted = stream.accepted and (stream.is_counted or reason != "refused")
            stream.end(error_of(code, message, reason))

    def on_status(self, status: Status) -> None:
        """The queue became full, or has room again, or a drain began."""
        self._admission.update(status)

    def on_drain(self) -> None:
        """Said once, before the status that says it too."""
        self.log.info("draining: new requests are refused")

    def on_leader(self, acknowledged: Metrics | None) -> None:
        """This front writes the metrics from now on."""
        self._metrics.on_leader(acknowledged)

    def on_metrics(self, metrics: Metrics) -> None:
        """A snapshot to write."""
        self._metrics.on_metrics(metrics)

    def on_lost(self, message: str, limit: str, suspects: set[int]) -> None:
        """The engine is gone. Requests that have sent a token end with INTERNAL; the others wait for the next one."""
        self._admission.suspend(f"{message}; {limit}")
        self._metrics.on_engine_gone()
        self.log.error(f"the engine has failed: {message}")
        for stream in self._live.all():
            if not stream.begin_again():
                stream.end(EngineFailed(f"the engine has failed: {message}"))
            elif stream.key in suspects and stream.failed_engines():
                stream.end(EngineFailed(f"the engine has failed again at this request: {message}"))

    def on_restart(self, message: str, limit: str) -> None:
        """Another engine is being started; `limit` says how often that may be."""
        self._admission.suspend(f"{message}; {limit}")
        self.log.warn(f"an engine is being started again; {limit}")

    def on_counted(self) -> None:
        """This front starts an engine again, whether or not that one will ever serve."""
        self._metrics.count({"flover_engine_restarts_total": 1})

    def waiting(self) -> list[int]:
        """Keys of the requests that are to run again, oldest first."""
        return [stream.key for stream in self._live.all() if not stream.is_ending]

    def on_restarted(self) -> None:
        """There is an engine again, and it has what waited."""
        self._admission.resume()
        self.log.info("there is an engine again", requests=len(self._live.all()))

    def on_failed(self, message: str) -> None:
        """There is no engine any more: every live request ends with INTERNAL, and no new one is taken."""
        self._admission.fail(message)
        self._metrics.on_engine_gone()
        self.log.error(f"the engine has failed for good: {message}")
        for stream in self._live.all():
            stream.end(EngineFailed(f"the engine has failed: {message}"))
        if not self._is_closing:
            self._live.wait_until_empty(CLOSE_STREAMS_S)
            self.on_dead()

    def close(self) -> None:
        """End what lives with UNAVAILABLE, leave the engine, join the threads. Bounded; safe to call once."""
        self._is_closing = True
        self._admission.close()
        self._tokenizing.shutdown(wait=False, cancel_futures=True)
        for stream in self._live.all():
            if stream.end(error_of("UNAVAILABLE", "the model is being unloaded", "shutdown")):
                self._client.cancel(stream.key)
        if not self._live.wait_until_empty(CLOSE_STREAMS_S):
            self.log.warn(f"{len(self._live.all())} requests did not end within {CLOSE_STREAMS_S} s")
        self._counters.flush()
        can_log = self._log_writer.close(CLOSE_THREADS_S)
        parts = (self._chores, self._senders, self._metrics)
        late = [type(part).__name__ for part in parts if not part.close(CLOSE_THREADS_S)]
        if late:
            self.log.warn(f"{', '.join(late)} did not end within {CLOSE_THREADS_S} s")
        for stream in self._live.all():
            self._requests.ended(stream.ending())
        if can_log:
            self._requests.flush(last=True)
        self._client.close()
