"""Tensor functions of the sampler, for a batch of rows. Know nothing of requests or plans; any device.

Arithmetic, the same on every device:
- z = (logit - max) / temperature and w = exp(z) in float32: the most likely token has weight 1.
- A filter is a threshold on w, so tokens of equal weight share a fate. top_k keeps w >= the k-th largest; top_p keeps
  the fewest largest whose sum reaches top_p of the sum that top_k left (of all without top_k); min_p keeps w >= min_p.
- The token is the first id, in id order, whose cumulative weight exceeds u * sum(w). Sums are float64.
- u in [0, 1) is a function of (seed, position) alone: SplitMix64's output function (Steele, Lea, Flood, "Fast
  splittable pseudorandom number generators", 2014) applied twice, in wrapping int64 arithmetic.
"""

from __future__ import annotations

import torch

MASKED_LOGIT = torch.finfo(torch.float32).min
"""Logit of a token that must not be chosen: finite, so that a row with nothing else stays free of NaN."""

NUM_CANDIDATES = 128
"""How many of the largest weights are looked at for top_k and top_p; a row that needs more looks at all, unsorted."""

_CDF_BLOCK = 256
_MIN_TEMPERATURE = 1e-30


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_GOLDEN = _signed(0x9E3779B97F4A7C15)
_MIX_1 = _signed(0xBF58476D1CE4E5B9)
_MIX_2 = _signed(0x94D049BB133111EB)


def _shift_right(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Logical right shift of int64."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def splitmix64(state: torch.Tensor) -> torch.Tensor:
    """[N] int64 -> [N] int64: the output of SplitMix64 whose state before the step is `state`."""
    x = state + _GOLDEN
    x = (x ^ _shift_right(x, 30)) * _MIX_1
    x = (x ^ _shift_right(x, 27)) * _MIX_2
    return x ^ _shift_right(x, 31)


def uniform(seeds: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
    """[N] int64, [N] int64 -> [N] float64 in [0, 1): one number for each (seed, position of the new token)."""
    bits = splitmix64(splitmix64(seeds) + positions * _GOLDEN)
    return _shift_right(bits, 11).double() * 2.0**-53


def temper_(logits: torch.Tensor, temperature: torch.Tensor) -> torch.Tensor:
    """[N, V] float32, [N] float32 -> weights [N, V] in place of the logits; the largest of each row is 1."""
    logits -= logits.amax(-1, keepdim=True)
    logits /= temperature.clamp_min(_MIN_TEMPERATURE).unsqueeze(1)
    return logits.exp_()


def filter_(weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Zero the weights that the filters drop, in place. weights [N, V]; the parameters [N], off as 0, 1, 0."""
    floor = min_p.float()
    rows = torch.nonzero((top_k > 0) | (top_p < 1)).squeeze(1)
    if rows.numel():
        part = weights if rows.numel() == weights.shape[0] else weights[rows]
        lowest = _floors(part, top_k[rows], top_p[rows].double())
        floor = floor.index_put((rows,), torch.maximum(floor[rows], lowest))
    return weights.mul_(weights >= floor.unsqueeze(1))


def _floors(weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """The lowest weight that top_k and top_p keep, [N] float32; all of a row's weights only where the largest do not
    tell."""
    largest = weights.topk(min(NUM_CANDIDATES, weights.shape[1])).values
    total = weights.sum(1, dtype=torch.float64)
    lowest, known = narrow_floors(largest, total, top_k, top_p)
    if largest.shape == weights.shape:
        return lowest
    rest = torch.nonzero(~known).squeeze(1)
    if rest.numel():
        lowest = lowest.index_put((rest,), wide_floors(weights[rest], total[rest], top_k[rest], top_p[rest]))
    return lowest


def narrow_floors(
    largest: torch.Tensor, total: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """From the largest weights alone: the lowest weight kept, and whether they reach far enough to know it.

    largest: [N, W] float32, descending; total: [N] float64, sum of all weights; top_k: [N] int64, 0 is off;
    top_p: [N] float64, 1 is off. Returns [N] float32 and [N] bool.
    """
    width = largest.shape[1]
    limited, last = top_k > 0, largest[:, -1]
    kth = largest.gather(1, (top_k.clamp(1, width) - 1).unsqueeze(1)).squeeze(1)
    within_k = largest >= torch.where(limited, kth, 0.0).unsqueeze(1)
    mass = torch.where(limited, (largest * within_k).sum(1, dtype=torch.float64), total)
    wanted = torch.where(top_p < 1, top_p * mass, torch.inf)
    before = largest.cumsum(1, dtype=torch.float64) - largest
    kept = within_k & (before < wanted.unsqueeze(1))
    last_kept = (kept.sum(1) - 1).clamp_min(0)  # none: a row of NaN, or a top_p that float32 rounds to 0
    lowest = largest.gather(1, last_kept.unsqueeze(1)).squeeze(1)
    beyond_k = limited & (top_k < width) & (kth > last)
    return lowest, (last == 0) | beyond_k | (~limited & (lowest > last))


def wide_floors(weights: torch.Tensor, total: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor) -> torch.Tensor:
    """What `narrow_floors` looks for, from all weights [N, V], without sorting them."""
    num_rows, vocab_size = weights.shape
    # Weights under (1 - top_p) * total / V sum to less than the share that top_p drops.
    bound = torch.where(top_k > 0, 0.0, (1 - top_p) * total / vocab_size * (1 - 1e-6)).float()
    row, column = torch.nonzero(weights >= bound.unsqueeze(1), as_tuple=True)
    value = weights[row, column]
    lowest = _radix_floor(row, value, torch.ones_like(value), torch.where(top_k > 0, top_k, torch.inf), num_rows)
    kept = value >= lowest[row]
    row, value = row[kept], value[kept]
    mass = torch.where(top_k > 0, torch.bincount(row, value.double(), minlength=num_rows), total)
    wanted = torch.where(top_p < 1, top_p * mass, torch.inf)
    return torch.maximum(lowest, _radix_floor(row, value, value, wanted, num_rows))


def _radix_floor(
    row: torch.Tensor, value: torch.Tensor, measure: torch.Tensor, wanted: torch.Tensor, num_rows: int
) -> torch.Tensor:
    """The largest float x of each row for which the measures of its values >= x sum to `wanted`; 0 if none do.

    row, value, measure: [E], values in 0 .. 1; wanted: [num_rows]. A radix selection over the bits of the values,
    which for non-negative floats are in order: three passes of 10 bits, each over the values that are still in doubt.
    """
    bits = value.view(torch.int32).long()
    measure = measure.double()
    prefix = torch.zeros(num_rows, dtype=torch.int64, device=value.device)
    above = torch.zeros(num_rows, dtype=torch.float64, device=value.device)
    for shift in (20, 10, 0):
        digit = (bits >> shift) & 1023
        sums = torch.bincount(row * 1024 + digit, measure, minlength=num_rows * 1024).view(num_rows, 1024)
        at_least = torch.cat((sums.flip(1).cumsum(1).flip(1), sums.new_zeros((num_rows, 1))), 1) + above.unsqueeze(1)
        found = ((at_least[:, :-1] >= wanted.unsqueeze(1)).sum(1) - 1).clamp_min(0)
        above = at_least.gather(1, (found + 1).unsqueeze(1)).squeeze(1)
        prefix = prefix * 1024 + found
        doubtful = digit == found[row]
        row, bits, measure = row[doubtful], bits[doubtful], measure[doubtful]
    return prefix.int().view(torch.float32)


def _block_sums(weights: torch.Tensor) -> torch.Tensor:
    """[N, V] -> [N, ceil(V / 256)] float64."""
    num_rows, vocab_size = weights.shape
    whole = vocab_size // _CDF_BLOCK
    blocks = weights[:, : whole * _CDF_BLOCK].view(num_rows, whole, _CDF_BLOCK)
    sums = blocks.sum(2, dtype=torch.float64)
    if whole * _CDF_BLOCK == vocab_size:
        return sums
    return torch.cat((sums, weights[:, whole * _CDF_BLOCK :].sum(1, keepdim=True, dtype=torch.float64)), 1)


def inverse_cdf(weights: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """[N, V] float32 weights, [N] float64 in [0, 1) -> [N] int64: the first id whose cumulative weight exceeds u * sum.

    Two levels: sums of 256 ids find the block, a cumulative sum inside it finds the id. Ids of weight 0 are never
    chosen, whatever the rounding. A row of NaN (a model that overflowed) gets some id of the vocabulary.
    """
    ends = _block_sums(weights).cumsum(1)
    total = ends[:, -1:]
    target = torch.minimum(u.unsqueeze(1) * total, torch.nextafter(total, torch.zeros_like(total)))
    block = torch.searchsorted(ends, target, right=True)
    start = torch.where(block > 0, ends.gather(1, (block - 1).clamp_min(0)), 0.0)
    ids = block * _CDF_BLOCK + torch.arange(_CDF_BLOCK, device=weights.device)
    inside = weights.gather(1, ids.clamp_max(weights.shape[1] - 1)) * (ids < weights.shape[1])
    ends_inside = start + inside.cumsum(1, dtype=torch.float64)
    reached = (ends_inside > target) & (inside > 0)
    last_positive = (inside > 0).long().cumsum(1).argmax(1, keepdim=True)
    first = torch.where(reached.any(1, keepdim=True), reached.int().argmax(1, keepdim=True), last_positive)
    return (block * _CDF_BLOCK + first).squeeze(1).clamp_max(weights.shape[1] - 1)


def penalize_(
    logits: torch.Tensor,
    places: torch.Tensor,
    seen: torch.Tensor,
    counts: torch.Tensor,
    factors: torch.Tensor,
) -> None:
    """Apply the three penalties in place to the rows `places` of the logits; all combine, repetition first.

    logits [M, V] float32; places [N] int64; seen [N, V] bool: in the prompt or the output (repetition: positive
    logits divided, others multiplied, as in CTRL, Keskar et al. 2019); counts [N, V] int32: occurrences in the output
    (presence once, frequency for each); factors [3, N] float32: repetition, presence, frequency. Touches seen tokens
    only.
    """
    row, token = torch.nonzero(seen, as_tuple=True)
    repetition, presence, frequency = factors[:, row].unbind(0)
    count = counts[row, token]
    at = (places[row], token)
    value = logits[at]
    value = torch.where(value > 0, value / repetition, value * repetition)
    value = value - frequency * count - presence * (count > 0)
    logits[at] = value.clamp(MASKED_LOGIT, -MASKED_LOGIT)  # a penalty near 0 must not make an infinity


def raw_logprobs(
    logits: torch.Tensor, token_ids: torch.Tensor, num_top: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log-probabilities of [N, V] logits, untouched by any parameter.

    Returns the chosen tokens' [N] float32 and ranks [N] int64 (1 is the most likely; equals share a rank), and the
    `num_top` most likely: values [N, num_top], ids [N, num_top].
    """
    normalizer = logits.logsumexp(-1, keepdim=True)
    chosen = logits.gather(1, token_ids.unsqueeze(1))
    rank = (logits > chosen).sum(1) + 1
    top = logits.topk(num_top)
    return (chosen - normalizer).squeeze(1), rank, top.values - normalizer, top.indices
