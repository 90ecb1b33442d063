"""Deadlines that pass in the queue and in decode, on a server whose rows are taken: how late their requests end."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from benchmarks.faults.rows import NOTHING, Row
from benchmarks.faults.segment import run_segment
from benchmarks.suite.load.calls import Call
from benchmarks.suite.workloads import prompt_ids
from flover_backend.config import ModelJson
from flover_backend.server import ServerOptions, TritonServer

LATE_MS = 20.0
"""Beside one iteration."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Deadlines:
    """What is asked."""

    max_rows: int = 8
    requests: int = 60
    gap_s: float = 0.08
    deadlines_ms: tuple[int, int] = (150, 450)
    vocab_size: int = 1536
    repeats: int = 3
    seed: int = 1

    def calls(self, background: int, repeat: int) -> list[Call]:
        """Background requests that take rows until the last deadline has passed, then those with a deadline."""
        source = random.Random(f"deadlines {self.seed} {background} {repeat}")
        prompts = prompt_ids([8] * (background + self.requests), self.vocab_size, source.getrandbits(32))
        lasts_ms = round(self.requests * self.gap_s * 1e3) + 2 * self.deadlines_ms[1] + 500
        calls = [Call(0.0, prompts.pop(), 1900, streams=False, deadline_ms=lasts_ms) for _ in range(background)]
        for number, prompt in enumerate(prompts):
            deadline_ms = source.randint(*self.deadlines_ms)
            calls.append(Call(0.5 + number * self.gap_s, prompt, 1900, number % 2 == 0, deadline_ms=deadline_ms))
        return calls


def measure_deadlines(asked: Deadlines, tell: Tell) -> list[Row]:
    """Starts a server with two fronts. Raises `MeasurementFailed`, `ServerFailed`."""
    rows = []
    with TritonServer(ServerOptions(config=ModelJson(max_rows=asked.max_rows), instances=2)) as server:
        for where, background in (("the queue", asked.max_rows), ("decode", 1)):
            late, wrong = [], 0
            for repeat in range(asked.repeats):
                segment = run_segment(server, asked.calls(background, repeat))
                ended = list(zip(segment.calls, segment.answers, strict=True))[background:]
                times = [1e3 * (answer.ended - answer.sent) - (call.deadline_ms or 0) for call, answer in ended]
                wrong += sum(not _is_right(answer.code, answer.num_tokens, where) for _, answer in ended)
                iteration_ms = segment.iteration_s() * 1e3
                late.append(float(np.percentile(times, 99)) - iteration_ms)
                tell(f"deadlines in {where}: {np.median(times):.1f} ms late, p99 {np.percentile(times, 99):.1f}, "
                     f"an iteration takes {iteration_ms:.1f} ms")  # fmt: skip
            asked_of = asked.requests * asked.repeats
            rows.append(
                Row(
                    fault=f"deadline in {where}",
                    injected=f"{asked_of} times",
                    lost=f"{wrong} of {asked_of} ended otherwise" if wrong else NOTHING,
                    figure="late beyond one iteration, p99",
                    unit="ms",
                    values=late,
                    bar=LATE_MS,
                )
            )
    return rows


def _is_right(code: str, num_tokens: int, where: str) -> bool:
    """UNAVAILABLE before the first token; what there is after it."""
    return (code, num_tokens) == ("UNAVAILABLE", 0) if where == "the queue" else not code and 0 < num_tokens < 1900
