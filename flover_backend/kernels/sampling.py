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

CANDIDATE_WIDTHS = (128, 1024)
"""How many of the largest weights are looked at for top_k and top_p; rows that need more than the last sort all."""

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


def thresholds(
    largest: torch.Tensor, total: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight below which top_k and top_p drop a token, and whether `largest` reached far enough to know it.

    largest: [N, W] float64, descending; total: [N] float64, sum of all weights; top_k: [N] int64, 0 is off;
    top_p: [N] float64, 1 is off. Returns [N] float64 and [N] bool.
    """
    width = largest.shape[1]
    limited = top_k > 0
    within_k = torch.arange(width, device=largest.device) < torch.where(limited, top_k, width).unsqueeze(1)
    mass = torch.where(limited, (largest * within_k).sum(1), total)
    before = largest.cumsum(1) - largest
    wanted = torch.where(top_p < 1, top_p * mass, torch.inf)
    count = (within_k & (before < wanted.unsqueeze(1))).sum(1)
    known = ((count < width) & (top_k <= width)) | (top_k == width) | (largest[:, -1] == 0)
    return largest.gather(1, (count - 1).unsqueeze(1)).squeeze(1), known


def filter_(weights: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor) -> torch.Tensor:
    """Zero the weights that the filters drop, in place. weights [N, V]; the parameters [N], off as 0, 1, 0."""
    vocab_size = weights.shape[1]
    floor = min_p.double()
    rows = torch.nonzero((top_k > 0) | (top_p < 1)).squeeze(1)
    for width in (*CANDIDATE_WIDTHS, vocab_size):
        if rows.numel() == 0:
            break
        part = weights if rows.numel() == weights.shape[0] else weights[rows]
        largest = part.topk(min(width, vocab_size)).values.double()
        lowest, known = thresholds(largest, part.sum(1, dtype=torch.float64), top_k[rows], top_p[rows].double())
        known |= width >= vocab_size
        found = rows[known]
        floor[found] = torch.maximum(floor[found], lowest[known])
        rows = rows[~known]
    return weights.mul_(weights >= floor.unsqueeze(1))


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
    chosen, whatever the rounding.
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
    return (block * _CDF_BLOCK + first).squeeze(1)


def penalize_(
    logits: torch.Tensor,
    seen: torch.Tensor,
    counts: torch.Tensor,
    repetition: torch.Tensor,
    presence: torch.Tensor,
    frequency: torch.Tensor,
) -> torch.Tensor:
    """Apply the three penalties in place; all combine, repetition first.

    logits [N, V] float32; seen [N, V] bool: in the prompt or the output (repetition: positive logits divided,
    others multiplied, as in CTRL, Keskar et al. 2019); counts [N, V] int32: occurrences in the output (presence once,
    frequency for each); the parameters [N] float32.
    """
    factor = torch.where(logits > 0, 1 / repetition.unsqueeze(1), repetition.unsqueeze(1))
    logits *= torch.where(seen, factor, 1.0)
    logits -= frequency.unsqueeze(1) * counts
    logits -= presence.unsqueeze(1) * (counts > 0)
    return logits


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
