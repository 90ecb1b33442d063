"""Attention of decode tokens over the blocks of one layer's KV buffer, split over the sequence; one launch a layer.

Flash-decoding (Dao et al. 2023): every sequence is cut into pieces of one size, chosen once an iteration so that the
pieces of all sequences fill the programs that the chip runs at once, one or more times over; short pieces even out any
mix of lengths, long ones cost fewer starts, and a program never waits twice. A sequence of several pieces leaves a
partial result of each, and the program that arrives last combines them. `plan` cuts, from lengths on the device.

Knows block tables and lengths; nothing of rows' state or of the model. Reference: kernels/attention.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import torch
import triton

from flover_backend.kernels.gpu.decode_kernel import decode_kernel
from flover_backend.kernels.gpu.decode_plan import plan_kernel
from flover_backend.kernels.gpu.dependent_launch import overlap

QUANTUM = 16
"""Positions; where sequences may be cut."""
_MANY_TOKENS = 48
"""From here on more, smaller programs are faster where heads share keys."""
_START_COST = 4
"""Quanta that a program streams in the time that its start takes, and a combination of partial results."""


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How the kernel is built for a model; `choose_config` knows what was measured."""

    heads: int
    """Query heads of a key-value head, padded to what the matrix unit takes."""
    tile: int
    """Positions that are loaded at once"""
    stages: int
    """Tiles in flight through shared memory"""
    num_warps: int
    programs_per_sm: int
    rounds: int
    """Most pieces for each program that runs at once: more even out the lengths, fewer cost less."""
    min_quanta: int
    """Of a piece: shorter ones cost more to combine than they save."""


def choose_config(
    num_heads: int, num_kv_heads: int, head_dim: int, dtype: torch.dtype, num_tokens: int = 1
) -> DecodeConfig:
    """Measured on an H200: programs of one warp, which never wait for another warp, as many as the chip holds.

    The matrix unit multiplies 16 rows of queries at once; with keys of its own for each head 15 of them are padding,
    which still costs less than sums across threads. `num_tokens`: that decode in an iteration.
    """
    heads = max(16, triton.next_power_of_2(num_heads // num_kv_heads))
    row_bytes = max(16, triton.next_power_of_2(head_dim)) * dtype.itemsize
    tile = max(16, min(32, (8 << 10) // row_bytes))
    if heads * head_dim > 4096 or row_bytes > 512:
        return DecodeConfig(heads, tile, 3, 4, 3, 4, 2)
    if heads * head_dim > 2048 or row_bytes > 256:
        return DecodeConfig(heads, tile, 3, 2, 4, 4, 2)
    if num_heads > num_kv_heads and num_tokens >= _MANY_TOKENS:
        return DecodeConfig(heads, tile, 2, 1, 10, 3, 2)
    return DecodeConfig(heads, tile, 3, 1, 6, 4, 2)


class DecodeAttention:
    """Decode attention of one model: its work list and its scratch, shared by all layers, made once.

    Scratch is bounded by the number of pieces: pieces * heads * head_dim float32, a few MB.
    """

    def __init__(
        self,
        max_tokens: int,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        block_size: int,
        max_blocks: int,
        dtype: torch.dtype,
        device: torch.device,
        config: DecodeConfig | None = None,
    ) -> None:
        assert num_heads % num_kv_heads == 0 and max_tokens > 0
        assert max_tokens * -(-max_blocks * block_size // QUANTUM) < 1 << 31, "work list beyond 32 bits"
        choose = partial(choose_config, num_heads, num_kv_heads, head_dim, dtype)
        self.configs = (config, config) if config else (choose(), choose(_MANY_TOKENS))
        """For few and for many tokens"""
        self._max_tokens, self._device = max_tokens, device
        self._shape = (num_heads, num_kv_heads, head_dim, block_size)
        self._programs = [_num_programs(device, c.programs_per_sm) // num_kv_heads for c in self.configs]
        most = max(c.rounds * programs for c, programs in zip(self.configs, self._programs, strict=True))
        self.num_pieces = max(max_tokens, most)
        """Most pieces that an iteration is cut into"""
        self._planned = 0
        self._pieces = torch.zeros(self.num_pieces, 8, dtype=torch.int32, device=device)
        partials = self.num_pieces * num_heads
        self._partial_results = torch.empty(partials, head_dim, dtype=torch.float32, device=device)
        self._partial_weights = torch.empty(partials, dtype=torch.float32, device=device)
        self._counters = torch.zeros(max_tokens * num_kv_heads, dtype=torch.int32, device=device)

    def plan(self, decode_lens: torch.Tensor, token_rows: torch.Tensor) -> None:
        """Cut the work of every layer of this iteration. One small launch.

        decode_lens, token_rows [T] int32, T <= max_tokens: tokens in the sequence up to and with this one, 0 for a
        token that does not decode; the row of the block table.
        """
        assert decode_lens.dtype == token_rows.dtype == torch.int32 and decode_lens.shape == token_rows.shape
        assert decode_lens.is_contiguous() and token_rows.is_contiguous() and len(decode_lens) <= self._max_tokens
        config, resident = self._of(len(decode_lens))
        self._planned = max(len(decode_lens), config.rounds * resident)
        block = max(256, triton.next_power_of_2(len(decode_lens)))
        plan_kernel[(self._planned,)](
            decode_lens,
            token_rows,
            self._pieces,
            len(decode_lens),
            resident,
            QUANTUM=QUANTUM,
            MIN_QUANTA=config.min_quanta,
            ROUNDS=config.rounds,
            START_COST=_START_COST,
            BLOCK=block,
            num_warps=max(1, block // 512),
            **overlap(self._device),
        )

    def run(
        self,
        query: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        block_table: torch.Tensor,
        scale: float,
        out: torch.Tensor,
    ) -> None:
        """One layer, as `plan` cut it. Writes out's rows of tokens that decode, and no others.

        A kernel that waits for all before it before it lets the next one start (a product, any of torch's) must lie
        between `plan` and this: the work list is read while the kernel right before may still run.

        query [T, heads, head_dim], rows may lie apart; keys, values [blocks, block_size, kv_heads, head_dim]
        contiguous, the tokens' own in them already; block_table [rows, max_blocks] int32; out [T, heads * head_dim].
        """
        num_heads, num_kv_heads, head_dim, block_size = self._shape
        assert query.shape[1:] == (num_heads, head_dim) and query.stride()[1:] == (head_dim, 1)
        assert keys.shape == values.shape and keys.shape[1:] == (block_size, num_kv_heads, head_dim)
        assert (
            keys.is_contiguous() and values.is_contiguous() and query.dtype == keys.dtype == values.dtype == out.dtype
        )
        assert block_table.dtype == torch.int32 and block_table.stride(1) == 1
        assert out.is_contiguous() and out.shape == (len(query), num_heads * head_dim)
        config, _ = self._of(len(query))
        dim = max(16, triton.next_power_of_2(head_dim))
        out_heads = triton.next_power_of_2(num_heads // num_kv_heads)
        decode_kernel[(self._planned * num_kv_heads,)](
            query,
            keys,
            values,
            block_table,
            self._pieces,
            self._partial_results,
            self._partial_weights,
            self._counters,
            out,
            scale * math.log2(math.e),
            query.stride(0),
            block_table.stride(0),
            KV_HEADS=num_kv_heads,
            GROUP=num_heads // num_kv_heads,
            HEAD_DIM=head_dim,
            DIM=dim,
            BLOCK_SIZE=block_size,
            HEADS=config.heads,
            TILE=config.tile,
            STAGES=config.stages,
            OUT_HEADS=out_heads,
            PARTS=max(1, min(16, config.num_warps * 2048 // (out_heads * dim))),
            num_warps=config.num_warps,
            **overlap(self._device),
        )

    def _of(self, num_tokens: int) -> tuple[DecodeConfig, int]:
        """The configuration for so many tokens, and the pieces that then run at once."""
        place = num_tokens >= _MANY_TOKENS
        return self.configs[place], max(1, self._programs[place])


def _num_programs(device: torch.device, per_sm: int) -> int:
    """That run at once; a few under the interpreter, which runs one after another."""
    if device.type != "cuda":
        return 8
    return torch.cuda.get_device_properties(device).multi_processor_count * per_sm
