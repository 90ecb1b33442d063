"""The sampler's tensor functions against naive per-row arithmetic and exact distributions."""

from __future__ import annotations

import math
import random

import pytest
import torch

from flover_backend.kernels import sampling
from flover_backend.kernels.margins import decision_margin
from flover_backend.request import SamplingParams

MASK_64 = (1 << 64) - 1


def splitmix64_in_python(state: int) -> int:
    x = (state + 0x9E3779B97F4A7C15) & MASK_64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK_64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK_64
    return x ^ (x >> 31)


def signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def chi_square(counts: list[int], expected: list[float]) -> tuple[float, int]:
    """Statistic and degrees of freedom; cells expected under 5 times are pooled."""
    pairs = [(c, e) for c, e in zip(counts, expected, strict=True) if e >= 5]
    rest = [(c, e) for c, e in zip(counts, expected, strict=True) if e < 5]
    if sum(e for _, e in rest) >= 5:
        pairs.append((sum(c for c, _ in rest), sum(e for _, e in rest)))
    return sum((c - e) ** 2 / e for c, e in pairs), len(pairs) - 1


def assert_fits(counts: list[int], expected: list[float]) -> None:
    """Six standard deviations of the chi-square distribution: seeds are fixed, so this never flickers."""
    statistic, freedom = chi_square(counts, expected)
    assert statistic < freedom + 6 * math.sqrt(2 * freedom)


def naive_kept(row: list[float], temperature: float, top_k: int, top_p: float, min_p: float) -> list[float]:
    """Weights that remain, by definition, in Python floats."""
    top = max(row)
    weights = [math.exp((x - top) / temperature) for x in row]
    ordered = sorted(weights, reverse=True)
    if top_k:
        ordered = ordered[:top_k]
    kept, mass, total = [], 0.0, sum(ordered)
    for weight in ordered:
        if top_p < 1 and mass >= top_p * total:
            break
        kept.append(weight)
        mass += weight
    floor = max(kept[-1], min_p)
    return [w if w >= floor * (1 - 1e-6) else 0.0 for w in weights]


def test_splitmix64_gives_the_published_sequence():
    # The generator's first outputs from state 0, as in Vigna's splitmix64.c and java.util.SplittableRandom.
    state, outputs = 0, []
    for _ in range(3):
        outputs.append(int(sampling.splitmix64(torch.tensor([signed(state)]))[0]) & MASK_64)
        state = (state + 0x9E3779B97F4A7C15) & MASK_64
    assert outputs == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]


def test_uniform_is_integer_arithmetic_on_seed_and_position():
    source = random.Random(1)
    seeds = [0, 1, MASK_64, 1 << 63] + [source.getrandbits(64) for _ in range(200)]
    positions = [source.randrange(1 << 20) for _ in seeds]
    expected = [
        (splitmix64_in_python((splitmix64_in_python(s) + p * 0x9E3779B97F4A7C15) & MASK_64) >> 11) * 2.0**-53
        for s, p in zip(seeds, positions, strict=True)
    ]
    got = sampling.uniform(torch.tensor([signed(s) for s in seeds]), torch.tensor(positions))
    assert got.tolist() == expected


@pytest.mark.parametrize("along", ["seeds", "positions"])
def test_uniform_is_uniform_and_neighbours_are_independent(along):
    count = 100_000
    ramp, fixed = torch.arange(count), torch.full((count,), 7)
    u = sampling.uniform(ramp, fixed) if along == "seeds" else sampling.uniform(fixed, ramp)
    cells = (u * 100).long()
    assert_fits(cells.bincount(minlength=100).tolist(), [count / 100] * 100)
    pairs = (u[:-1] * 10).long() * 10 + (u[1:] * 10).long()
    assert_fits(pairs.bincount(minlength=100).tolist(), [(count - 1) / 100] * 100)


@pytest.mark.parametrize("vocab_size", [1, 3, 255, 256, 257, 1000, 4096])
def test_inverse_cdf_is_the_first_id_whose_sum_exceeds_the_point(vocab_size):
    generator = torch.Generator().manual_seed(vocab_size)
    weights = torch.rand(50, vocab_size, generator=generator)
    weights *= torch.rand(50, vocab_size, generator=generator) < 0.3
    weights[:, vocab_size // 2] = 0.7
    u = torch.rand(50, generator=generator, dtype=torch.float64)
    u[0], u[1] = 0.0, 1 - 2.0**-53
    got = sampling.inverse_cdf(weights, u).tolist()
    for row, token in enumerate(got):
        ends = weights[row].double().cumsum(0)
        expected = int(torch.nonzero(ends > u[row] * ends[-1])[0])
        assert token == expected
        assert weights[row, token] > 0


def test_inverse_cdf_never_chooses_weight_zero_at_the_ends():
    weights = torch.zeros(2, 700)
    weights[:, 300] = 1e-30
    weights[:, 301] = 1e-38
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    assert sampling.inverse_cdf(weights, ends).tolist() == [300, 301]


@pytest.mark.parametrize("vocab_size", [5, 120, 128, 129, 2000])
def test_filters_equal_the_definition(vocab_size):
    source = random.Random(vocab_size)
    generator = torch.Generator().manual_seed(vocab_size)
    rows = []
    for _ in range(60):
        top_k = source.choice([0, 0, 1, 2, vocab_size // 2, vocab_size, min(vocab_size, 127)])
        top_p = source.choice([1.0, 1.0, 0.999, 0.9, 0.5, 0.01])
        min_p = source.choice([0.0, 0.0, 0.05, 0.7, 1.0])
        rows.append((source.choice([0.3, 1.0, 5.0, 100.0]), top_k or 0, top_p, min_p))
    logits = torch.randn(len(rows), vocab_size, generator=generator) * 3
    temperature, top_k, top_p, min_p = (torch.tensor(column) for column in zip(*rows, strict=True))
    weights = sampling.temper_(logits.clone(), temperature)
    kept = sampling.filter_(weights, top_k, top_p, min_p)
    for i, row in enumerate(rows):
        expected = naive_kept(logits[i].tolist(), *row)
        assert torch.allclose(kept[i].double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-30), row


def test_equal_weights_share_a_fate():
    weights = torch.tensor([[0.5, 1.0, 0.5, 0.5, 0.2]])
    kept = sampling.filter_(weights, torch.tensor([2]), torch.tensor([1.0]), torch.tensor([0.0]))
    assert kept.tolist() == [[0.5, 1.0, 0.5, 0.5, 0.0]]


def test_rows_that_need_more_candidates_look_at_all_weights_alone(monkeypatch):
    wide = []
    real = sampling.wide_floors
    monkeypatch.setattr(sampling, "wide_floors", lambda *args: wide.append(args[0].shape) or real(*args))
    weights = torch.cat((torch.full((1, 3000), 0.5), torch.eye(2, 3000)))
    weights[0, :10] = 1.0
    sampling.filter_(weights, torch.tensor([0, 5, 0]), torch.tensor([0.9, 1.0, 0.5]), torch.zeros(3))
    assert wide == [(1, 3000)]
    assert weights[0].count_nonzero() == 3000, "equal weights share a fate"


@pytest.mark.parametrize("vocab_size", [5, 101, 700, 3000])
def test_a_row_of_nan_or_a_tiny_top_p_ends_nothing(vocab_size):
    """A model that overflowed costs its own request; top_p that float32 rounds to 0 keeps the most likely token."""
    weights = torch.rand((6, vocab_size), generator=torch.Generator().manual_seed(1))
    weights[:, 3] = 1.0
    weights[3:] = torch.nan
    top_k, top_p = torch.tensor([0, 2, 0, 0, 2, 3]), torch.tensor([5e-324, 0.0, 1e-45, 0.5, 1.0, 0.0])
    kept = sampling.filter_(weights.clone(), top_k, top_p.float(), torch.zeros(6))
    assert kept[:3].argmax(1).tolist() == [3, 3, 3] and (kept[:3] > 0).sum(1).tolist() == [1, 1, 1]
    ids = sampling.inverse_cdf(kept, torch.full((6,), 0.5, dtype=torch.float64))
    assert ids[:3].tolist() == [3, 3, 3] and all(0 <= i < vocab_size for i in ids.tolist())


@pytest.mark.parametrize("seed", range(5))
def test_wide_and_narrow_floors_agree(seed):
    """The radix selection over all weights against the cut in a full, sorted list."""
    generator, source = torch.Generator().manual_seed(seed), random.Random(seed)
    logits = torch.randn(40, 600, generator=generator) * source.choice([0.01, 1.0, 4.0])
    if seed == 4:
        logits = logits.round()
    weights = sampling.temper_(logits, torch.ones(40))
    top_k = torch.tensor([source.choice([0, 0, 1, 5, 300, 599, 600]) for _ in range(40)])
    top_p = torch.tensor([source.choice([1.0, 0.999, 0.9, 0.5, 0.01]) for _ in range(40)], dtype=torch.float64)
    total = weights.sum(1, dtype=torch.float64)
    narrow, _ = sampling.narrow_floors(weights.sort(1, descending=True).values, total, top_k, top_p)
    wide = sampling.wide_floors(weights, total, top_k, top_p)
    assert ((weights >= narrow[:, None]) == (weights >= wide[:, None])).all()


@pytest.mark.parametrize("temperature", [1e-45, 1e-8, 0.2, 100.0])
def test_extreme_logits_and_temperatures_stay_finite(temperature):
    logits = torch.tensor([[3e38, -3e38, 0.0, sampling.MASKED_LOGIT], [sampling.MASKED_LOGIT] * 4])
    weights = sampling.temper_(logits, torch.full((2,), temperature))
    assert torch.isfinite(weights).all()
    assert (weights.amax(1) == 1).all()
    assert weights[0, 3] == 0


def test_penalties_combine_as_defined():
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(4, 50, generator=generator) * 4
    counts = torch.randint(0, 3, (4, 50), generator=generator, dtype=torch.int32)
    seen = (torch.rand(4, 50, generator=generator) < 0.3) | (counts > 0)
    repetition, presence, frequency = torch.tensor([[1.3, 1, 0.5, 10], [0, 1.5, -2, 0.3], [0.7, 0, 2, -1]])
    got = torch.randn(6, 50)
    places = torch.tensor([5, 0, 2, 3])
    got[places] = logits
    others = got[[1, 4]].clone()
    sampling.penalize_(got, places, seen, counts, torch.stack((repetition, presence, frequency)))
    assert torch.equal(got[[1, 4]], others)
    got = got[places]
    for i in range(4):
        for v in range(50):
            x, c = float(logits[i, v]), int(counts[i, v])
            if seen[i, v]:
                x = x / float(repetition[i]) if x > 0 else x * float(repetition[i])
            x -= float(frequency[i]) * c + float(presence[i]) * (c > 0)
            assert math.isclose(float(got[i, v]), x, rel_tol=1e-5, abs_tol=1e-5)


def test_a_tiny_repetition_penalty_makes_no_infinity():
    logits = torch.tensor([[3.0, -3.0, 1.0]])
    seen, counts = torch.tensor([[True, True, False]]), torch.tensor([[0, 1, 0]], dtype=torch.int32)
    sampling.penalize_(logits, torch.tensor([0]), seen, counts, torch.tensor([[1e-45], [-2.0], [2.0]]))
    assert torch.isfinite(logits).all()
    assert torch.isfinite(sampling.temper_(logits, torch.tensor([1.0]))).all()


def test_rows_of_nan_get_an_id_of_the_vocabulary():
    weights = torch.full((2, 300), float("nan"))
    weights[1, 10:] = 0.5
    tokens = sampling.inverse_cdf(weights, torch.tensor([0.5, 0.9], dtype=torch.float64)).tolist()
    assert all(0 <= token < 300 for token in tokens)


def test_raw_logprobs_are_those_of_log_softmax():
    logits = torch.randn(5, 300, generator=torch.Generator().manual_seed(4)) * 5
    tokens = torch.tensor([0, 10, 299, int(logits[3].argmax()), 7])
    logprob, rank, values, ids = sampling.raw_logprobs(logits, tokens, 20)
    expected = logits.log_softmax(-1)
    assert torch.allclose(logprob, expected.gather(1, tokens.unsqueeze(1)).squeeze(1), atol=1e-5)
    ordered = expected.sort(-1, descending=True)
    assert ids.tolist() == ordered.indices[:, :20].tolist()
    assert torch.allclose(values, ordered.values[:, :20], atol=1e-5)
    assert [int(ordered.indices[i, rank[i] - 1]) for i in range(5)] == tokens.tolist()


@pytest.mark.parametrize(
    "params",
    [(1.0, 0, 1.0, 0.0), (0.7, 0, 1.0, 0.0), (1.5, 8, 1.0, 0.0), (1.0, 0, 0.8, 0.0), (1.2, 0, 1.0, 0.1),
     (2.0, 30, 0.9, 0.05)],
)  # fmt: skip
def test_draws_follow_the_exact_distribution(params):
    vocab_size, draws = 300, 40_000
    logits = torch.randn(vocab_size, generator=torch.Generator().manual_seed(5)) * 2
    kept = naive_kept(logits.tolist(), *params)
    temperature, top_k, top_p, min_p = (torch.tensor([x]) for x in params)
    weights = sampling.filter_(sampling.temper_(logits.unsqueeze(0).clone(), temperature), top_k, top_p, min_p)
    u = sampling.uniform(torch.arange(draws) % 200, torch.arange(draws) // 200)
    tokens = torch.cat([sampling.inverse_cdf(weights.expand(2000, -1), part) for part in u.split(2000)])
    counts = tokens.bincount(minlength=vocab_size).tolist()
    assert not any(c for c, w in zip(counts, kept, strict=True) if w == 0)
    assert_fits(counts, [w / sum(kept) * draws for w in kept])


def test_margin_of_greedy_is_the_gap_of_the_two_largest():
    assert math.isclose(
        decision_margin(torch.tensor([1.0, 3.5, 3.0]), SamplingParams(max_tokens=1, temperature=0), 0.3), 0.5
    )


def test_margin_of_a_draw_is_the_nearest_boundary():
    logits = torch.tensor([0.5, 0.25, 0.25]).log()
    margin = decision_margin(logits, SamplingParams(max_tokens=1), 0.7)
    assert math.isclose(margin, 0.05, abs_tol=1e-6)
    with_top_p = decision_margin(logits, SamplingParams(max_tokens=1, top_p=0.51), 0.2)
    assert math.isclose(with_top_p, 0.01, abs_tol=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_a_margin_tells_how_little_changes_the_token(seed):
    """A perturbation of the logits well under the margin never changes the token."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(60):
        logits = torch.randn(40, generator=generator) * 3
        u = float(torch.rand(1, generator=generator, dtype=torch.float64))
        params = SamplingParams(max_tokens=1, temperature=1.0, top_k=15, top_p=0.9, min_p=0.02)
        noise = torch.randn(40, generator=generator) * 1e-6
        if decision_margin(logits, params, u) > 1e-4:
            assert draw(logits, params, u) == draw(logits + noise, params, u)


def draw(logits: torch.Tensor, params: SamplingParams, u: float) -> int:
    weights = sampling.temper_(logits.unsqueeze(0).clone(), torch.tensor([params.temperature]))
    sampling.filter_(weights, torch.tensor([params.top_k]), torch.tensor([params.top_p]), torch.tensor([params.min_p]))
    return int(sampling.inverse_cdf(weights, torch.tensor([u], dtype=torch.float64)))
