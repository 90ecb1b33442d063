"""Many streams at random times fuse, and each has the tokens it has alone."""

from __future__ import annotations

import json
import random
import time
from dataclasses import dataclass
from typing import Any

from live_metrics import num_ended, series, wait_settled
from live_server import LiveServer
from triton_client import Answer, Call, arrays_of, ask, ids_of

NUM_STREAMS = 24
NEAR_TIE = 1e-4


@dataclass
class Case:
    """One request: alone and fused it must have the same tokens."""

    prompt: list[int]
    parameters: dict[str, Any]
    stream: bool
    pause_s: float


def make_cases(draw: random.Random) -> list[Case]:
    kinds: list[dict[str, Any]] = [
        {"temperature": 0},
        {"temperature": 0, "repetition_penalty": 1.2},
        {"temperature": 0.8, "top_k": 20},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.0, "min_p": 0.02, "presence_penalty": 0.5},
        {"temperature": 0.9, "logit_bias": {"40": 3.0}, "frequency_penalty": 0.3},
    ]
    return [
        Case(
            [draw.randrange(10, 1500) for _ in range(draw.choice((1, 5, 30, 120)))],
            kinds[number % len(kinds)]
            | {"seed": number, "max_tokens": draw.randrange(20, 120), "ignore_eos": True, "logprobs": 2},
            draw.random() < 0.8,
            draw.expovariate(1 / 0.02),
        )
        for number in range(NUM_STREAMS)
    ]


def start(server: LiveServer, case: Case) -> Call:
    return Call(server.grpc_url, arrays_of(case.prompt, case.parameters, stream=case.stream, return_logprobs=True))


def entries_of(answers: list[Answer]) -> list[dict[str, dict[str, Any]]]:
    return [entry for answer in answers for entry in json.loads(answer.outputs["logprobs"][0])]


def first_difference(one: list[int], other: list[int]) -> int | None:
    assert len(one) == len(other)
    return next((at for at, pair in enumerate(zip(one, other, strict=True)) if pair[0] != pair[1]), None)


def is_near_tie(entry: dict[str, dict[str, Any]]) -> bool:
    """Whether the two most likely tokens were too close for floating point to tell apart."""
    first, second = sorted((described["logprob"] for described in entry.values()), reverse=True)[:2]
    return bool(first - second < NEAR_TIE)


def differing(cases: list[Case], alone: list[list[Answer]], fused: list[list[Answer]]) -> list[tuple[int, int]]:
    """(case, place) of each first difference that is no near tie of a greedy request."""
    found = []
    for number, (one, other) in enumerate(zip(alone, fused, strict=True)):
        at = first_difference(ids_of(one), ids_of(other))
        if at is not None and not (cases[number].parameters["temperature"] == 0 and is_near_tie(entries_of(one)[at])):
            found.append((number, at))
    return found


def test_fused_streams_have_the_tokens_they_have_alone(server: LiveServer) -> None:
    cases = make_cases(random.Random(7))
    ended = num_ended(wait_settled(server))
    alone = [start(server, case).rest() for case in cases]
    before = wait_settled(server, ended + NUM_STREAMS)
    calls = []
    for case in cases:
        time.sleep(case.pause_s)
        calls.append(start(server, case))
    fused = [call.rest() for call in calls]
    assert differing(cases, alone, fused) == []

    after = wait_settled(server, ended + 2 * NUM_STREAMS)
    grown = {
        name: after[series(f"flover_iteration_rows_{name}")] - before[series(f"flover_iteration_rows_{name}")]
        for name in ("sum", "count")
    }
    several = grown["count"] - (
        after[series("flover_iteration_rows_bucket", le="2")] - before[series("flover_iteration_rows_bucket", le="2")]
    )
    tokens = sum(case.parameters["max_tokens"] for case in cases)
    assert after[series("flover_decode_tokens_total")] - before[series("flover_decode_tokens_total")] == tokens
    assert several > 0  # iterations of more than two rows
    assert grown["count"] < tokens / 2
    assert after[series("flover_reorders_total")] > before[series("flover_reorders_total")]
    assert after[series("flover_integrity_failures_total")] == 0


def test_requests_that_share_rows_do_not_share_text(server: LiveServer) -> None:
    """The same prompt with different seeds, at once, twice: each seed has its own tokens both times."""
    runs = []
    for _ in range(2):
        calls = [
            Call(server.grpc_url, arrays_of([20, 30], {"seed": seed, "max_tokens": 24, "ignore_eos": True}))
            for seed in range(12)
        ]
        runs.append([tuple(ids_of(call.rest())) for call in calls])
    assert runs[0] == runs[1]
    assert len(dict.fromkeys(runs[0])) == 12
    assert runs[0][3] == tuple(
        ids_of(ask(server.grpc_url, [20, 30], {"seed": 3, "max_tokens": 24, "ignore_eos": True}))
    )
