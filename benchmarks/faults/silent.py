"""Clients that read nothing beside others that do: what the others see of it.

Stretches with the silent clients take turns with stretches in which two clients that read send the same two requests:
the engine has the same work in both. The silent connections stay open, and unread, from the first to the last.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.faults.rows import Row, lost_in_words
from benchmarks.faults.segment import Segment, observe, run_segment
from benchmarks.faults.silent_client import SilentClient
from benchmarks.pa.errors import MeasurementFailed
from benchmarks.pa.run import Target
from benchmarks.suite.load.calls import Call
from benchmarks.suite.workloads import prompt_ids
from flover_backend.metric_families import series
from flover_backend.server import ServerOptions, TritonServer

GAP_RATIO = 1.1
WAIT_S = 60.0
FINISHED = series("flover_requests_finished_total", reason="length")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Silent:
    """What is asked."""

    others: int = 6
    new_tokens: int = 1500
    silent_new_tokens: int = 1900
    """More, so that it is silent for as long as others stream."""
    vocab_size: int = 1536
    seconds: float = 60.0
    """At least so long nothing is read."""
    repeats: int = 3
    """At least."""
    seed: int = 1

    def calls(self) -> list[Call]:
        """The others', then the two of whom it is asked whether they read."""
        prompts = prompt_ids(
            [16] * (self.others + 2), self.vocab_size, random.Random(f"silent {self.seed}").getrandbits(32)
        )
        counts = [self.new_tokens] * self.others + [self.silent_new_tokens] * 2
        return [Call(0.0, prompt, count) for prompt, count in zip(prompts, counts, strict=True)]


def measure_silent(asked: Silent, tell: Tell) -> list[Row]:
    """Starts a server with two fronts. Raises `MeasurementFailed`, `ServerFailed`."""
    ratios, short, silent_s = [], 0, 0.0
    calls = asked.calls()
    others, same = calls[: asked.others], calls[asked.others :]
    with TritonServer(ServerOptions(instances=2)) as server:
        run_segment(server, [Call(0.0, call.prompt, 16) for call in calls])
        with SilentClient(Target(server.grpc_url, server.options.name), server.http_url) as client:
            opened = time.monotonic()
            for repeat in itertools.count():
                if repeat >= asked.repeats and time.monotonic() - opened >= asked.seconds:
                    break
                found: dict[bool, Segment] = {}
                for is_silent in (True, False) if repeat % 2 == 0 else (False, True):
                    if is_silent:
                        client.ask_grpc(same[0])
                        client.ask_http(same[1])
                    before = _finished(server)
                    found[is_silent] = run_segment(server, others if is_silent else calls)
                    _wait_for_all(server, before + len(calls))
                    short += found[is_silent].num_short()
                with_silent, without = (_gap_p99_ms(found[is_silent], asked.others) for is_silent in (True, False))
                ratios.append(with_silent / without)
                tell(f"inter-token p99 of {asked.others} others: {with_silent:.2f} ms beside silent clients, "
                     f"{without:.2f} ms beside reading ones")  # fmt: skip
            silent_s = time.monotonic() - opened
    return [
        Row(
            fault="clients that read nothing, gRPC and HTTP",
            injected=f"{silent_s:.0f} s, {len(ratios)} × 2 requests of {asked.silent_new_tokens} tokens",
            lost=lost_in_words(short, 2 * len(ratios) * (asked.others + 1)),
            figure="others' inter-token p99, over that beside clients that read",
            values=ratios,
            bar=GAP_RATIO,
        )
    ]


def _finished(server: TritonServer) -> float:
    """Requests that came to their length, read or not."""
    with observe(server) as observer:
        return observer.metrics().counters[FINISHED]


def _wait_for_all(server: TritonServer, count: float) -> None:
    """Silent ones too: a request that nobody reads is computed to its end."""
    deadline = time.monotonic() + WAIT_S
    while _finished(server) < count:
        if time.monotonic() > deadline:
            raise MeasurementFailed(f"of {count:g} requests {_finished(server):g} came to their length in {WAIT_S:g} s")
        time.sleep(0.1)


def _gap_p99_ms(segment: Segment, others: int) -> float:
    """Between the tokens of the others; the tokens of one response share the time since the one before."""
    gaps = [
        np.repeat(np.diff(answer.times) / answer.tokens[1:], answer.tokens[1:]) for answer in segment.answers[:others]
    ]
    return float(np.percentile(np.concatenate(gaps), 99)) * 1e3
