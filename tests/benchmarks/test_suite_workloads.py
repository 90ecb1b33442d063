"""The suite's workloads are what the papers' figures say, and the same on every machine."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.suite.workload import Workload
from benchmarks.suite.workloads import (
    burst,
    chat_sweep,
    constant,
    data,
    digest,
    paper_of,
    poisson,
    profile,
    random_totals,
)
from flover_backend.errors import ConfigError

PAPER, VOCAB = profile("paper"), 32000


def gaps_ms(workload: Workload) -> list[float]:
    return [(b.at - a.at) * 1e3 for a, b in itertools.pairwise(workload.requests)]


def test_the_same_requests_on_every_machine() -> None:
    made = {
        "1622003112e62af4": constant(32, 500, 0.39, PAPER, VOCAB),
        "d4b006c6eb732727": burst(8, PAPER, VOCAB),
        "7066b2bafdfa6d0a": poisson(32, 20, 0.39, PAPER, VOCAB),
        "2ceaf181b25cf02a": random_totals(32, 2048, 500, 0.39, PAPER, VOCAB),
        "113a7406cb26a212": chat_sweep("triton", VOCAB)[0],
    }
    assert {workload.name: digest(workload) for workload in made.values()} == {
        workload.name: pinned for pinned, workload in made.items()
    }


def test_flovers_requests_have_512_tokens_at_constant_scaled_gaps() -> None:
    workload = constant(32, 500, 0.4, PAPER, VOCAB)
    assert {(len(r.prompt), r.new_tokens) for r in workload.requests} == {(8, 504)}
    assert gaps_ms(workload) == pytest.approx([200.0] * 31)
    assert (workload.facts["paper_gap_ms"], workload.facts["gap_ms"]) == (500, pytest.approx(200.0))
    assert gaps_ms(burst(4, PAPER, VOCAB)) == [0.0] * 3
    assert constant(1, 500, 0.4, PAPER, VOCAB).facts["gap_ms"] == 0.0


def test_a_poisson_sweep_differs_in_its_mean_alone() -> None:
    short, long = poisson(2000, 20, 1.0, PAPER, VOCAB), poisson(2000, 200, 1.0, PAPER, VOCAB)
    assert gaps_ms(long) == pytest.approx([10 * gap for gap in gaps_ms(short)], rel=1e-3)
    mean = sum(gaps_ms(short)) / 1999
    assert mean == pytest.approx(20, rel=0.06) and short.facts["gap_ms"] == pytest.approx(mean)
    above = sum(gap > 20 for gap in gaps_ms(short)) / 1999
    assert above == pytest.approx(0.368, abs=0.03), "exponential gaps"


@pytest.mark.parametrize("most", [512, 1024, 1536, 2048])
def test_random_totals_are_uniform_from_128_on(most: int) -> None:
    totals = [len(r.prompt) + r.new_tokens for r in random_totals(3000, most, 500, 1.0, PAPER, VOCAB).requests]
    assert min(totals) >= 128 and max(totals) <= most
    assert sum(totals) / 3000 == pytest.approx((128 + most) / 2, rel=0.03)


def test_chat_mixes_stay_within_their_lengths_and_keep_them_at_every_rate() -> None:
    slow, *_, fast = chat_sweep("sweep", VOCAB)
    assert [(len(r.prompt), r.new_tokens) for r in slow.requests] == [
        (len(r.prompt), r.new_tokens) for r in fast.requests
    ]
    assert all(32 <= len(r.prompt) <= 2048 and 16 <= r.new_tokens <= 512 for r in slow.requests)
    (triton,) = chat_sweep("triton", VOCAB)
    assert len(triton.requests) == 300 and triton.facts["rate"] == 20
    assert all(32 <= len(r.prompt) <= 512 and 16 <= r.new_tokens <= 256 for r in triton.requests)
    assert all(3 <= token < VOCAB for r in triton.requests for token in r.prompt)


def test_the_papers_lone_requests() -> None:
    assert {name: paper.single_s for name, paper in data().papers.items()} == {
        "13b": 9.1,
        "gptj-6b": 5.6,
        "33b": 13.6,
        "65b": 10.8,
    }
    assert paper_of("gptj-6b")[1].poisson_single_s == 5.8
    assert paper_of("llama-demo")[0] == "13b"


def test_what_is_no_workload_is_refused() -> None:
    with pytest.raises(ConfigError, match="profile 'no'; allowed: paper, full, cpu"):
        profile("no")
    with pytest.raises(ConfigError, match="chat mix 'no'; allowed: mix"):
        chat_sweep("no", VOCAB)
    with pytest.raises(ConfigError, match="at least one request"):
        burst(0, PAPER, VOCAB)
