"""Moving row state when the batch is reordered. Knows tensors and pairs of rows; who moves is not its choice."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def move_rows(tensors: Sequence[torch.Tensor], dim: int, pairs: list[tuple[int, int]]) -> None:
    """Copy index `source` to index `destination` along `dim` of each tensor, for each (source, destination) of `pairs`.

    All sources are read before any destination is written. Destinations must differ from each other.
    """
    source, destination = torch.tensor(pairs, device=tensors[0].device).unbind(1)
    for tensor in tensors:
        tensor.index_copy_(dim, destination, tensor.index_select(dim, source))
