"""Logprobs of the rows that ask for them, behind the graph that sampled: rare, so no graph holds them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from flover_backend.engine.gpu.iteration import Sampled
from flover_backend.engine.gpu.occupants import wants_logprobs
from flover_backend.engine.sampler import Logprobs
from flover_backend.kernels.sampling import raw_logprobs
from flover_backend.request import SamplingParams


def start_logprobs(sampled: Sampled, params: Sequence[SamplingParams | None], places: Sequence[int]) -> Logprobs | None:
    """Of the rows whose `params` ask; `places[i]` is row i's entry of `sampled`. None when no row asks.

    Launched on the device; nothing waits for it.
    """
    asking = [(i, p) for i, p in enumerate(params) if p is not None and wants_logprobs(p)]
    if not asking:
        return None
    device = sampled.logits.device
    index = torch.tensor([places[i] for i, _ in asking], pin_memory=device.type == "cuda")
    index = index.to(device, non_blocking=True)
    num_top = [max(p.logprobs, 0) for _, p in asking]
    logits = sampled.logits.index_select(0, index).float()
    token_ids = sampled.token_ids.index_select(0, index).long()
    return Logprobs([i for i, _ in asking], num_top, *raw_logprobs(logits, token_ids, max(num_top)))
