"""The engine on tiny models: it generates, reports, cancels and ends."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_gptj
import tiny_llama
from lone import Collector, make_engine, make_request, run_alone

from flover_backend.engine.interface import RequestEnded
from flover_backend.models.batch import Model
from flover_backend.request import FinishReason, SamplingParams


@pytest.fixture(scope="module", params=[tiny_llama, tiny_gptj], ids=["llama", "gptj"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama.load(request.param.write(Path(tmp_path_factory.mktemp("tiny"))))


def test_alone_and_again_gives_the_same(model):
    request = make_request(1, [5, 6, 7], SamplingParams(max_tokens=30, temperature=1.0, seed=9, ignore_eos=True))
    first, second = run_alone(model, request), run_alone(model, request)
    assert first == second
    assert len(first[0].token_ids) == 30
    assert len(set(first[0].token_ids)) > 5


def test_stats_and_gauges_tell_what_happened(model):
    engine = make_engine(model, budget=4, max_rows=2)
    assert engine.last_stats is None and not engine.has_work
    for key, length in ((1, 2), (2, 9), (3, 1)):
        params = SamplingParams(max_tokens=length, temperature=0.0, ignore_eos=True)
        engine.add(make_request(key, [5, 6, 7], params))
    engine.step()
    stats = engine.last_stats
    assert stats is not None and stats.started_keys == (1, 2)
    iteration = stats.iteration
    assert (iteration.step, iteration.num_rows, iteration.prefill_tokens, iteration.decode_tokens) == (0, 2, 4, 0)
    assert (iteration.joins, iteration.num_waiting) == (2, 1)
    gauges = engine.gauges
    assert (gauges.num_running, gauges.num_waiting, gauges.num_waiting_tokens) == (2, 1, 3)
    assert gauges.used_blocks == 2 and gauges.used_blocks + gauges.free_blocks == 128
    assert gauges.kv_bytes_mapped == 129 * 8 * 2 * 2 * model.num_kv_heads * model.head_dim * 4
    moved = []
    while engine.has_work:
        engine.step()
        if engine.last_stats is not None and engine.last_stats.iteration.row_moves:
            moved.append((engine.last_stats.bytes_moved, engine.last_stats.reorder_seconds > 0))
    assert moved == [(5 * 8 + 6 * 4 + 17 * 4, True)], "one row: five int64, six float32, its block table"
    engine.step()
    assert engine.last_stats is None
    engine.check_integrity()


@pytest.mark.parametrize("pipeline_depth", [0, 1])
def test_cancel_ends_a_request_and_frees_its_blocks(model, pipeline_depth):
    engine, collector = make_engine(model, pipeline_depth=pipeline_depth), Collector()
    for key in (1, 2):
        request = make_request(key, [4, 5], SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True))
        collector.expect(request)
        engine.add(request)
    for _ in range(5):
        collector.take(engine.step())
    engine.cancel(1)
    engine.cancel(77)
    updates = engine.step()
    assert RequestEnded in [type(update) for update in updates]
    collector.take(updates)
    while engine.has_work:
        collector.take(engine.step())
    assert len(collector.sequences[2][0].token_ids) == 20
    assert engine.gauges.used_blocks == 0
    engine.check_integrity()


def test_a_stop_string_found_by_the_front_ends_the_sequence(model):
    engine, collector = make_engine(model), Collector()
    request = make_request(1, [4, 5], SamplingParams(max_tokens=20, temperature=0.0, ignore_eos=True))
    collector.expect(request)
    engine.add(request)
    for _ in range(4):
        collector.take(engine.step())
    engine.finish(1, 0, 3)
    while engine.has_work:
        collector.take(engine.step())
    assert collector.sequences[1][0].finish is FinishReason.STOP
    assert engine.gauges.used_blocks == 0


def test_eos_stops_unless_ignored_and_counts(model):
    bias = {tiny_llama.EOS: 100.0}
    for ignore, length, reason in ((False, 1, FinishReason.STOP), (True, 5, FinishReason.LENGTH)):
        params = SamplingParams(max_tokens=5, temperature=0.0, logit_bias=bias, ignore_eos=ignore)
        (sequence,) = run_alone(model, make_request(1, [4, 5], params))
        assert sequence.token_ids == [tiny_llama.EOS] * length
        assert sequence.finish is reason


def test_n_sequences_share_a_prefill_and_differ(model):
    params = SamplingParams(max_tokens=12, temperature=1.0, seed=3, n=3, ignore_eos=True)
    engine, collector = make_engine(model), Collector()
    request = make_request(1, list(range(3, 30)), params)
    collector.expect(request)
    engine.add(request)
    prefilled = 0
    while engine.has_work:
        collector.take(engine.step())
        prefilled += 0 if engine.last_stats is None else engine.last_stats.iteration.prefill_tokens
    sequences = collector.sequences[1]
    assert prefilled == 27
    assert len({tuple(sequence.token_ids) for sequence in sequences}) == 3
    one = SamplingParams(max_tokens=12, temperature=1.0, seed=3, ignore_eos=True)
    assert run_alone(model, make_request(1, list(range(3, 30)), one))[0].token_ids == sequences[0].token_ids
