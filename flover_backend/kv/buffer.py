"""The tensors of the shared KV buffer. Which block belongs to whom is kv/blocks.py's business."""

from __future__ import annotations

import torch


class KVBuffer:
    """Per layer one tensor for keys and one for values, each [num_blocks + 1, block_size, num_kv_heads, head_dim].

    Per-layer tensors, never all layers of a block together: elsewhere that cost 31 % of throughput (kvcached).
    Block 0 is the null block (scheduler/plan.py).
    """

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_kv_heads: int,
        head_dim: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        shape = (num_blocks + 1, block_size, num_kv_heads, head_dim)
        self.block_size = block_size
        self.num_blocks = num_blocks
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(num_layers)]

    @property
    def bytes_per_block(self) -> int:
        """Of all layers, keys and values."""
        return 2 * len(self.keys) * self.keys[0][0].nbytes

    @property
    def num_bytes(self) -> int:
        """Of the whole buffer, null block included."""
        return (self.num_blocks + 1) * self.bytes_per_block

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        """Copy whole blocks (source, destination) in every layer; sources are read before any is written."""
        if not pairs:
            return
        source, destination = torch.tensor(pairs, device=self.keys[0].device).unbind(1)
        for layer in (*self.keys, *self.values):
            layer[destination] = layer[source]
