"""Every way answers the same requests with the same tokens, and differs from the others in what it is named for."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from benchmarks.suite.batching import departure, expected_end
from benchmarks.suite.plan import Planned, promising
from benchmarks.suite.result import Run
from benchmarks.suite.ways import WAYS, EngineWays
from benchmarks.suite.workload import BenchRequest, Workload
from flover_backend.bench_engine.drive import Arrival, Record, drive
from flover_backend.bench_engine.figures import BenchError
from flover_backend.bench_engine.shapes import Shape
from flover_backend.engine.engine import Engine
from flover_backend.errors import DoesNotFit

MAX_LEN = 64


def _workload(gap: float, lengths: list[int], vocab_size: int = 1536) -> Workload:
    source = random.Random(3)
    requests = tuple(
        BenchRequest(gap * place, tuple(source.randrange(3, vocab_size) for _ in range(4 + place)), length)
        for place, length in enumerate(lengths)
    )
    return Workload(f"constant-{gap}-{len(lengths)}", "constant", requests, {"num_requests": len(lengths)})


MIXED = _workload(0.002, [12, 30, 5, 17, 9])
BURST = _workload(0.0, [12, 30, 5, 17, 9])


@pytest.fixture(scope="module")
def ways() -> Iterator[EngineWays]:
    told: list[str] = []
    keys = {"max_rows": 8, "max_model_len": MAX_LEN, "kv_cache_tokens": 8 * MAX_LEN}
    with EngineWays("llama-demo", "cpu", tell=told.append, **keys) as ways:
        yield ways
    assert told


def _tokens(ways: EngineWays, way: str, workload: Workload, **settings: float) -> tuple[Run, dict[int, list[int]]]:
    tokens: dict[int, list[int]] = defaultdict(list)
    run = ways.run(way, workload, on_tokens=lambda number, ids: tokens[number].extend(ids), **settings)
    return run, dict(tokens)


@pytest.fixture(scope="module")
def alone(ways: EngineWays) -> dict[int, list[int]]:
    return _tokens(ways, "serial", MIXED)[1]


@pytest.mark.parametrize("way", [way for way in WAYS if way != "serial"])
def test_every_way_gives_the_same_tokens(ways: EngineWays, alone: dict[int, list[int]], way: str) -> None:
    run, tokens = _tokens(ways, way, MIXED)
    assert tokens == alone
    assert {number: len(ids) for number, ids in alone.items()} == {
        number: request.new_tokens for number, request in enumerate(MIXED.requests)
    }
    assert (run.way, run.layer, run.model, run.kind) == (way, "engine", "llama-demo", "constant")
    assert [(r.at, r.prompt_tokens, r.new_tokens) for r in run.requests] == [
        (r.at, len(r.prompt), r.new_tokens) for r in MIXED.requests
    ]
    assert all(r.at == r.sent < r.first <= r.end for r in run.requests)
    assert run.facts == {"num_requests": 5} and run.wall_s == max(r.end for r in run.requests)


def test_a_way_serves_a_few_tokens_before_its_first_run_on_an_engine(
    ways: EngineWays, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[list[tuple[float, int]]] = []

    def counted(engine: Engine, arrivals: Sequence[Arrival], **settings: Any) -> Record:
        served.append([(one.at, one.new_tokens) for one in arrivals])
        return drive(engine, arrivals, **settings)

    ways.run("none", MIXED)  # so that the engine of the others is new
    monkeypatch.setattr("benchmarks.suite.ways.drive", counted)
    runs = [ways.run("fused", MIXED) for _ in range(2)]
    asked = [(request.at, request.new_tokens) for request in MIXED.requests]
    warm, *measured = [few for few in served if len(few) == len(asked) and few != served[0]]
    assert warm == [(0.0, 8), (0.0, 8), (0.0, 5), (0.0, 8), (0.0, 8)] and measured == [asked, asked]
    assert all(run.num_responses == 73 and len(run.requests) == 5 for run in runs)
    served.clear()
    assert ways.single(MIXED) > 0 and 3 <= len(served) <= 9 and {len(few) for few in served} == {1}


def test_instances_take_turns_where_there_are_fewer_than_requests(
    ways: EngineWays, alone: dict[int, list[int]]
) -> None:
    run, tokens = _tokens(ways, "instances", MIXED, instances=2)
    assert tokens == alone and run.settings == {"instances": 2}
    assert run.requests[0].first < run.requests[2].first and run.requests[1].first < run.requests[3].first


def test_an_instance_takes_long_prompts_in_pieces(ways: EngineWays) -> None:
    prompt = tuple(range(3, 3 + 300))
    long = Workload("long", "chat", (BenchRequest(0.0, prompt, 5), BenchRequest(0.0, prompt[:9], 5)))
    with EngineWays("llama-demo", "cpu", tell=lambda _: None, max_rows=2, kv_cache_tokens=2048) as roomy:
        assert _tokens(roomy, "instances", long)[1] == _tokens(roomy, "serial", long)[1]


def test_one_after_another_never_overlaps(ways: EngineWays) -> None:
    run = ways.run("serial", BURST)
    for before, after in zip(run.requests, run.requests[1:], strict=False):
        assert before.end < after.first
    assert {live for _, live in run.iterations} == {1} and len(run.iterations) == sum(
        r.new_tokens for r in BURST.requests
    )


def test_fused_rows_come_and_go(ways: EngineWays) -> None:
    run = ways.run("fused", BURST)
    lives = [live for _, live in run.iterations]
    assert lives[0] == 5 and lives[-1] == 1 and sum(lives) == run.num_responses == 73
    assert run.requests[2].end < run.requests[0].end < run.requests[1].end
    assert 0 < run.gaps_ms["p50"] <= run.gaps_ms["p99"] <= run.gaps_ms["max"]
    assert run.requests[1].gap_p99_ms <= run.gaps_ms["max"]


def test_a_step_is_as_wide_as_its_highest_live_row_without_reorder(ways: EngineWays) -> None:
    """Rows end after 12, 30, 5, 17 and 9 tokens: the second, in row 1, is the last."""
    dense, holed = ways.run("fused", BURST), ways.run("none", BURST)
    lives = [live for _, live in dense.iterations]
    assert dense.widths == lives == [live for _, live in holed.iterations]
    assert holed.widths == [5] * 9 + [4] * 8 + [2] * 13


@pytest.mark.parametrize("way", ["static", "dynamic"])
def test_a_batch_runs_to_completion(ways: EngineWays, way: str) -> None:
    run = ways.run(way, BURST, batch_size=3)
    ends = [request.end for request in run.requests]
    assert ends[0] == ends[1] == ends[2] < ends[3] == ends[4]
    assert all(request.first == request.end for request in run.requests) and run.gaps_ms == {}
    assert run.num_responses == 5
    # 30 iterations of the first batch, 17 of the second; rows count while their tokens are asked for.
    assert [live for _, live in run.iterations] == [3] * 5 + [2] * 7 + [1] * 18 + [2] * 9 + [1] * 8


def test_when_a_batch_leaves() -> None:
    arrivals = [1.0, 1.1, 1.5, 4.0]
    assert departure(arrivals, 2, 0.05) == 1.05 and departure(arrivals, 2, 3.0) == 1.1
    assert departure(arrivals, 8, 0.2) == 1.2 and departure(arrivals, 8, 0.0) == 1.0
    assert departure(arrivals, 3, None) == 1.5 and departure(arrivals, 8, None) == 4.0


def test_a_late_request_waits_for_the_batch_before(ways: EngineWays) -> None:
    late = Workload("late", "constant", (BURST.requests[1], BenchRequest(0.03, (5, 6), 2)))
    run = ways.run("dynamic", late, window_ms=0)
    assert run.requests[1].first > run.requests[0].end and run.settings == {"batch_size": 8, "window_ms": 0.0}
    run = ways.run("dynamic", late, window_ms=100)
    assert run.requests[0].end == run.requests[1].end


def test_only_windows_that_promise_something_are_run() -> None:
    def second(rows: int) -> float:
        return 1.0

    prompt = (5, 6)
    requests = [BenchRequest(0.1 * place, prompt, 10) for place in range(4)]
    # A second an iteration. At once: the first alone, then the others. Waiting 0.35 s: all four together.
    assert expected_end(requests, 8, 0.0, second) == 20 and expected_end(requests, 8, 0.35, second) == 10.35
    assert expected_end(requests, 2, 0.35, second) == pytest.approx(20.1)
    assert expected_end(requests, 8, 0.0, lambda rows: 0.1 * rows) == 4.0
    workload = Workload("four", "constant", tuple(requests))
    others = [Planned("engine", "fused", workload), Planned("triton", "dynamic", workload, {"window_ms": 900})]
    windows = [Planned("engine", "dynamic", workload, {"window_ms": window}) for window in (0, 900, 20, 350)]

    def kept(step_s: float) -> list[float]:
        runs = promising([*windows, *others], lambda rows: step_s, count=2)
        assert runs[2:] == others
        return [run.settings["window_ms"] for run in runs[:2]]

    assert kept(1.0) == [900, 350] and kept(0.001) == [0, 20]
    assert len(promising(windows * 2, second, count=3)) == 3


def test_a_lone_request_and_the_device(ways: EngineWays) -> None:
    assert ways.single(MIXED) > 0
    probe = ways.probe()
    assert probe.copy_bandwidth > 0 and list(probe.products_ms) == [1, 8, 32] and min(probe.products_ms.values()) > 0
    assert ways.kv_bytes_per_token == 2 * 5 * 2 * 32 * 4 and ways.vocab_size == 1536


def test_what_is_not_allowed(ways: EngineWays) -> None:
    with pytest.raises(BenchError, match="way is 'beam'; allowed: fused, none"):
        ways.run("beam", MIXED)
    with pytest.raises(BenchError, match="window_ms is no setting of static; allowed: batch_size"):
        ways.run("static", MIXED, window_ms=1)
    with pytest.raises(BenchError, match=r"batch_size is 9; allowed is 1 \.\. 8"):
        ways.run("static", MIXED, batch_size=9)
    with pytest.raises(BenchError, match=r"instances is 33; allowed is 1 \.\. 32"):
        ways.run("instances", MIXED, instances=33)


@pytest.mark.parametrize("way", ["fused", "serial", "static"])
def test_a_request_that_does_not_fit_ends_the_run_and_not_the_engine(
    ways: EngineWays, alone: dict[int, list[int]], way: str
) -> None:
    too_long = BenchRequest(0.0, (5, 6, 7), MAX_LEN)
    with pytest.raises(DoesNotFit, match=str(MAX_LEN)):
        ways.run(way, Workload("too long", "constant", (*BURST.requests[:2], too_long, *BURST.requests[2:])))
    assert _tokens(ways, way, MIXED)[1] == alone


def test_a_shape_with_random_weights_and_gptj(tmp_path: Path) -> None:
    tiny = {"architectures": ["GPTJForCausalLM"], "vocab_size": 101, "n_embd": 32, "n_layer": 2, "n_head": 2}
    tiny |= {"n_positions": 64, "n_inner": None, "rotary_dim": 6, "activation_function": "gelu_new"}
    tiny |= {"layer_norm_epsilon": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32"}
    few = _workload(0.0, [4, 6, 3], vocab_size=101)
    with EngineWays(Shape("tiny", "Tiny", tiny), "cpu", "random", lambda _: None) as ways:
        assert _tokens(ways, "instances", few)[1] == _tokens(ways, "fused", few)[1]
        assert list(ways.probe(rows=(2,)).products_ms) == [2]
