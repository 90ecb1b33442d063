"""How near a sampling decision was to another one: for tests that compare runs whose logits round differently.

Slow and per row; nothing here is called while serving.
"""

from __future__ import annotations

import math

import torch

from flover_backend.request import SamplingParams


def decision_margin(logits: torch.Tensor, params: SamplingParams, u: float) -> float:
    """[V] float32 logits after penalties, bias and masks -> the distance to the nearest other outcome.

    Greedy: the gap between the two largest logits. Else the least of: the distance of the sampled point u to the
    nearest boundary between two tokens in the cumulative distribution; for each filter, the distance in probability
    of its cut from the nearest token on either side of it.
    """
    ordered = logits.double().sort(descending=True).values
    if ordered.numel() == 1:
        return math.inf
    if params.temperature == 0:
        return float(ordered[0] - ordered[1])
    weights = ((logits.double() - ordered[0]) / params.temperature).exp()
    floor, margin = _filters(weights.sort(descending=True).values, params)
    kept = torch.where(weights >= floor * (1 - 1e-12), weights, 0.0)
    return min(margin, _point_margin(kept, u))


def _point_margin(kept: torch.Tensor, u: float) -> float:
    ends = kept[kept > 0].cumsum(0)
    boundaries = ends[:-1] / ends[-1]
    return float((boundaries - u).abs().min()) if boundaries.numel() else math.inf


def _filters(ordered: torch.Tensor, params: SamplingParams) -> tuple[float, float]:
    """Descending weights -> (lowest weight kept, distance of the nearest cut)."""
    size = ordered.numel()
    kept, margin = size, math.inf
    if 0 < params.top_k < size:
        kept = params.top_k
        margin = float(ordered[kept - 1] - ordered[kept])
    if params.top_p < 1:
        before = (ordered[:kept].cumsum(0) - ordered[:kept]) / ordered[:kept].sum()
        margin = min(margin, float((before[1:] - params.top_p).abs().min()) if kept > 1 else math.inf)
        kept = int((before < params.top_p).sum())
    floor = float(ordered[kept - 1])
    if params.min_p > 0:
        margin = min(margin, float((ordered - params.min_p).abs().min()))
        floor = max(floor, params.min_p)
    return floor, margin
