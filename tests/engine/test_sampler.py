"""The batched sampler, each row against what it would get alone, and each parameter against its definition."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from flover_backend.engine.rowstate import RowState
from flover_backend.engine.sampler import Sampler
from flover_backend.kernels import sampling
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import Join, Plan

VOCAB = 500
EOS = (3, 4)
CPU = torch.device("cpu")


def params(**values: Any) -> SamplingParams:
    return SamplingParams(**{"max_tokens": 100, "temperature": 0.0, **values})


def joined(joins: list[Join], max_rows: int = 16) -> RowState:
    state = RowState(max_rows, 128, 16, VOCAB, CPU)
    state.apply(Plan(0, max_rows, joins=joins))
    return state


def sample(joins: list[Join], logits: torch.Tensor) -> list[int]:
    return Sampler(joined(joins), EOS).sample(logits.clone(), [join.row for join in joins]).token_ids.tolist()


def random_logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3


def random_params(source: random.Random) -> SamplingParams:
    return SamplingParams(
        max_tokens=50,
        min_tokens=source.choice([0, 0, 0, 2, 30]),
        temperature=source.choice([0.0, 0.0, 0.4, 1.0, 2.0]),
        top_k=source.choice([0, 0, 1, 5, 200]),
        top_p=source.choice([1.0, 1.0, 0.9, 0.3]),
        min_p=source.choice([0.0, 0.0, 0.1]),
        repetition_penalty=source.choice([1.0, 1.0, 1.3, 0.8]),
        presence_penalty=source.choice([0.0, 0.0, 1.5]),
        frequency_penalty=source.choice([0.0, 0.0, -0.5]),
        stop_token_ids=source.choice([(), (7, 8, 9)]),
        ignore_eos=source.random() < 0.3,
        logprobs=source.choice([-1, -1, 0, 3]),
        cumulative_logprob=source.random() < 0.2,
        logit_bias=source.choice([{}, {}, {5: 8.0, 6: -100.0}]),
    )


def naive_logits(row: torch.Tensor, join: Join) -> list[float]:
    """Penalties, bias and masks by definition, one token at a time."""
    p, out = join.params, join.output_ids
    values = row.tolist()
    for token in range(VOCAB):
        if token in join.prompt_ids or token in out:
            r = p.repetition_penalty
            values[token] = values[token] / r if values[token] > 0 else values[token] * r
        values[token] -= p.frequency_penalty * out.count(token) + p.presence_penalty * (token in out)
        values[token] += p.logit_bias.get(token, 0.0)
        ends = token in p.stop_token_ids or (token in EOS and not p.ignore_eos)
        if ends and len(out) < p.min_tokens:
            values[token] = sampling.MASKED_LOGIT
    return values


def naive_token(row: torch.Tensor, join: Join) -> int:
    """What the sampler should choose, by sorting everything."""
    p = join.params
    values = torch.tensor(naive_logits(row, join))
    if p.temperature == 0:
        return int(values.argmax())
    weights = ((values - values.max()) / p.temperature).exp().double()
    ordered = weights.sort(descending=True).values
    if p.top_k:
        ordered = ordered[: p.top_k]
    if p.top_p < 1:
        ordered = ordered[(ordered.cumsum(0) - ordered) < p.top_p * ordered.sum()]
    floor = max(float(ordered[-1]), p.min_p) * (1 - 1e-9)
    ends = torch.where(weights >= floor, weights, 0.0).cumsum(0)
    position = torch.tensor([len(join.prompt_ids) + len(join.output_ids)])
    u = sampling.uniform(torch.tensor([join.seed]), position)
    return int(torch.nonzero(ends > u * ends[-1])[0])


def random_join(row: int, source: random.Random) -> Join:
    prompt = [source.randrange(VOCAB) for _ in range(source.randrange(1, 20))]
    output = [source.randrange(VOCAB) for _ in range(source.randrange(0, 10))]
    return Join(row, prompt, output * source.choice([1, 2]), random_params(source), source.getrandbits(60))


@pytest.mark.parametrize("seed", range(8))
def test_mixed_rows_each_get_what_the_definition_says(seed):
    source = random.Random(seed)
    joins = [random_join(row, source) for row in source.sample(range(16), 16)]
    logits = random_logits(16, seed)
    assert sample(joins, logits) == [naive_token(logits[i], join) for i, join in enumerate(joins)]


@pytest.mark.parametrize("seed", range(4))
def test_a_row_is_independent_of_its_place_and_of_the_batch(seed):
    source = random.Random(100 + seed)
    joins = [random_join(row, source) for row in range(16)]
    logits = random_logits(16, seed)
    together = sample(joins, logits)
    alone = [sample([join], logits[i : i + 1])[0] for i, join in enumerate(joins)]
    order = source.sample(range(16), 16)
    shuffled = [
        Join(row, j.prompt_ids, j.output_ids, j.params, j.seed) for row, j in enumerate(joins[i] for i in order)
    ]
    assert together == alone
    assert sample(shuffled, logits[order]) == [together[i] for i in order]


def test_a_greedy_batch_is_one_argmax(monkeypatch):
    for name in ("temper_", "filter_", "inverse_cdf", "penalize_", "raw_logprobs", "uniform"):
        monkeypatch.setattr(sampling, name, None)
    joins = [Join(row, [1], [], params(), 0) for row in range(5)]
    logits = random_logits(5)
    assert sample(joins, logits) == logits.argmax(-1).tolist()


def test_rows_that_use_no_penalty_hold_no_counts():
    state = joined([Join(0, [1], [], params(temperature=1.0, top_k=3), 0)])
    assert state.penalties.counts.shape[0] == 0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [10, 11]),
        ({"logit_bias": {10: -100.0}}, [11, 11]),
        ({"logit_bias": {20: 100.0}}, [20, 20]),
        ({"repetition_penalty": 2.0}, [11, 10]),
        ({"presence_penalty": 2.0}, [10, 11]),
        ({"frequency_penalty": 2.0}, [10, 11]),
    ],
)
def test_parameters_act_on_prompt_and_output_as_said(values, expected):
    """Two steps over the same logits; 10 leads 11 a little, and 10 is in the prompt."""
    logits = torch.zeros(1, VOCAB)
    logits[0, 10], logits[0, 11] = 5.0, 4.5
    state = joined([Join(0, [10], [], params(**values), 0)])
    sampler = Sampler(state, EOS)
    first = sampler.sample(logits.clone(), [0]).token_ids.tolist()
    logits[0, 11] = 5.2 if not values else 4.5
    assert first + sampler.sample(logits.clone(), [0]).token_ids.tolist() == expected


def test_frequency_grows_with_each_occurrence_and_presence_does_not():
    logits = torch.zeros(1, VOCAB)
    logits[0, 10], logits[0, 11] = 5.0, 2.5
    for values, expected in (({"frequency_penalty": 1.0}, [10, 10, 10, 11, 10]), ({"presence_penalty": 2.0}, [10] * 5)):
        sampler = Sampler(joined([Join(0, [1], [], params(**values), 0)]), EOS)
        assert [int(sampler.sample(logits.clone(), [0]).token_ids) for _ in range(5)] == expected


def test_min_tokens_masks_what_ends_a_sequence_until_it_is_reached():
    logits = torch.zeros(1, VOCAB)
    logits[0, [3, 4, 7, 20]] = torch.tensor([9.0, 8.0, 7.0, 1.0])
    for values, expected in (
        ({"min_tokens": 2, "stop_token_ids": (7,)}, [20, 20, 3]),
        ({"min_tokens": 2}, [7, 7, 3]),
        ({"min_tokens": 2, "ignore_eos": True, "stop_token_ids": (3,)}, [4, 4, 3]),
        ({"min_tokens": 0}, [3, 3, 3]),
    ):
        sampler = Sampler(joined([Join(0, [1], [], params(**values), 0)]), EOS)
        assert [int(sampler.sample(logits.clone(), [0]).token_ids) for _ in range(3)] == expected


def test_masking_every_token_still_gives_one():
    logits = random_logits(2)
    everything = tuple(range(VOCAB))
    joins = [
        Join(i, [1], [], params(temperature=t, min_tokens=1, stop_token_ids=everything), 5)
        for i, t in ((0, 0), (1, 1.0))
    ]
    assert all(0 <= token < VOCAB for token in sample(joins, logits))


def test_logprobs_are_of_the_raw_distribution_for_rows_that_ask():
    logits = random_logits(3)
    joins = [
        Join(0, [1], [], params(logit_bias={50: 100.0}, logprobs=2, temperature=0.5), 0),
        Join(1, [1], [], params(), 0),
        Join(2, [1], [], params(cumulative_logprob=True), 0),
    ]
    sampled = Sampler(joined(joins), EOS).sample(logits.clone(), [0, 1, 2])
    assert sampled.logprobs is not None
    found = sampled.logprobs.to_host()
    expected = logits.log_softmax(-1)
    assert sorted(found) == [0, 2]
    assert sampled.token_ids[0] == 50
    assert found[0].logprob == pytest.approx(float(expected[0, 50]), abs=1e-5)
    assert found[0].rank == int((logits[0] > logits[0, 50]).sum()) + 1
    assert [i for i, _ in found[0].top] == logits[0].topk(2).indices.tolist()
    assert found[2].top == [] and found[2].rank == 1


def test_seeds_of_64_bits_and_positions_decide_the_draw():
    logits = torch.zeros(1, VOCAB)
    tokens = {
        (seed, length): sample([Join(0, [1] * length, [], params(temperature=1.0), seed)], logits)[0]
        for seed in (0, 1, (1 << 64) - 1, 1 << 63)
        for length in (1, 2)
    }
    assert len(set(tokens.values())) >= 7
    for (seed, length), token in tokens.items():
        split = Join(0, [1], [1] * (length - 1), params(temperature=1.0), seed)
        assert sample([split], logits) == [token]


def test_margins_are_recorded_when_asked():
    logits = random_logits(2)
    state = joined([Join(0, [1], [], params(), 0), Join(1, [1], [], params(temperature=1.0), 1)])
    sampler = Sampler(state, EOS, record_margins=True)
    sampler.sample(logits.clone(), [0, 1])
    top = logits[0].topk(2).values
    assert sampler.margins[0] == pytest.approx(float(top[0] - top[1]), rel=1e-5)
    assert 0 <= sampler.margins[1] < 1
