"""Figures of hand-made requests, whose answers are known by arithmetic."""

from __future__ import annotations

import random

import numpy as np
import pytest

from benchmarks.pa.export import Request
from benchmarks.pa.figures import Spread, figures, in_flight, inter_token

MS = 1_000_000


def made(sent: float, *responses: tuple[float, int], asked: int | None = None, prompt: int | None = 8) -> Request:
    """Milliseconds; `responses`: (when, tokens)."""
    times = np.array([round(when * MS) for when, _ in responses], dtype=np.int64)
    counts = np.array([count for _, count in responses], dtype=np.int64)
    return Request(round(sent * MS), times, counts, prompt, asked)


def test_two_requests() -> None:
    found = figures(
        [
            made(0, (10, 1), (14, 1), (18, 1), (30, 1), asked=4),
            made(5, (25, 1), (35, 3), asked=4),
        ]
    )
    assert (found.num_requests, found.num_tokens, found.num_asked_tokens, found.num_short) == (2, 8, 8, 0)
    assert (found.num_responses, found.num_coalesced, found.num_prompt_tokens) == (6, 1, 16)
    assert found.seconds == pytest.approx(0.035)
    assert found.tokens_per_s == pytest.approx(8 / 0.035)
    assert found.requests_per_s == pytest.approx(2 / 0.035)
    assert found.first_token and (found.first_token.least, found.first_token.most) == pytest.approx((0.010, 0.020))
    # Gaps of 4, 4, 12 ms, and one of 10 ms for three tokens.
    assert found.inter_token and found.inter_token.count == 6
    assert found.inter_token.mean == pytest.approx((0.020 + 0.010) / 6)
    assert found.inter_token.p50 == pytest.approx(0.010 / 3)
    assert found.response_gap and (found.response_gap.count, found.response_gap.most) == (4, pytest.approx(0.012))
    assert found.per_output_token and found.per_output_token.least == pytest.approx(0.010 / 3)
    assert found.per_output_token.most == pytest.approx(0.020 / 3)
    assert found.latency and found.latency.mean == pytest.approx(0.030)
    assert found.request_tokens_per_s and found.request_tokens_per_s.mean == pytest.approx(4 / 0.030)
    assert found.most_in_flight == 2
    assert found.mean_in_flight == pytest.approx(0.060 / 0.035)


def test_tokens_of_a_first_response_have_no_latency_of_their_own() -> None:
    assert inter_token(made(0, (10, 3), (16, 2))).tolist() == pytest.approx([0.003, 0.003])


def test_a_response_without_tokens_leaves_its_time_to_the_next() -> None:
    assert inter_token(made(0, (10, 1), (12, 0), (16, 1))).tolist() == pytest.approx([0.006])


def test_latencies_sum_to_first_until_last_response() -> None:
    source = random.Random(1)
    for _ in range(50):
        times = sorted(source.uniform(1, 100) for _ in range(source.randint(1, 20)))
        one = made(0, *((when, source.randint(1, 4)) for when in times))
        assert inter_token(one).sum() == pytest.approx((one.times[-1] - one.times[0]) / 1e9)
        assert len(inter_token(one)) == one.num_tokens - one.tokens[0]


def test_percentiles_are_nearest_rank() -> None:
    spread = Spread.of(np.arange(1, 101, dtype=np.float64))
    assert spread is not None
    assert (spread.p1, spread.p10, spread.p50, spread.p90, spread.p99) == (1, 10, 50, 90, 99)
    assert (spread.least, spread.most, spread.mean, spread.count) == (1, 100, 50.5, 100)
    assert Spread.of(np.empty(0)) is None


def test_in_flight_never_counts_one_that_begins_as_another_ends_twice() -> None:
    assert in_flight([made(0, (10, 1)), made(10, (20, 1)), made(15, (18, 1))]) == [
        (0.0, 1),
        (pytest.approx(0.010), 1),
        (pytest.approx(0.015), 2),
        (pytest.approx(0.018), 1),
        (pytest.approx(0.020), 0),
    ]


def test_one_token_requests_have_no_gaps() -> None:
    found = figures([made(0, (4, 1), asked=1, prompt=None)])
    assert found.inter_token is found.response_gap is found.per_output_token is None
    assert found.num_prompt_tokens is None
    assert found.request_tokens_per_s and found.request_tokens_per_s.p50 == pytest.approx(250)


def test_short_and_silent_requests_are_told() -> None:
    found = figures([made(0, (4, 1), asked=3), made(1, asked=3)])
    assert (found.num_short, found.num_tokens, found.num_requests) == (2, 1, 2)
    assert found.latency and found.latency.count == 1
    assert found.most_in_flight == 1
