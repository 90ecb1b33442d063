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
import triton.language as tl

from flover_backend.kernels.gpu.dependent_launch import let_next_start, overlap, wait_for_previous

QUANTUM = 16
"""Positions; where sequences may be cut."""
_MANY_TOKENS = 48
"""From here on more, smaller programs are faster where heads share keys."""
_START_COST = 4
"""Quanta that a program streams in the time that its start takes, and a combination of partial results."""


@triton.jit
def _count(quanta, size):
    return tl.sum((quanta + size - 1) // size)


@triton.jit
def _least_size(quanta, size, largest, most):
    """The least size in size .. largest that makes at most `most` pieces; `largest` does."""
    while size < largest:
        middle = (size + largest) // 2
        if _count(quanta, middle) <= most:
            largest = middle
        else:
            size = middle + 1
    return size


@triton.jit(do_not_specialize=["num_tokens", "resident"])
def _plan_kernel(
    decode_lens,
    token_rows,
    pieces,
    num_tokens,
    resident,
    QUANTUM: tl.constexpr,
    MIN_QUANTA: tl.constexpr,
    ROUNDS: tl.constexpr,
    START_COST: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Program p makes piece p: pieces [P, 8] int32 (token, row, start, stop, first piece of the token, its pieces).

    start and stop are positions; both 0: nothing to do. Of the sizes that fill 1 .. ROUNDS rounds of the `resident`
    pieces that run at once, the one with the least rounds * (size + START_COST), which counts quanta.
    """
    piece = tl.program_id(0)
    wait_for_previous(OVERLAP)
    let_next_start(OVERLAP)
    token = tl.arange(0, BLOCK)
    lens = tl.load(decode_lens + token, mask=token < num_tokens, other=0)
    quanta = (lens + QUANTUM - 1) // QUANTUM
    num_live = tl.sum((quanta > 0).to(tl.int32))
    largest = tl.maximum(tl.max(quanta, 0), MIN_QUANTA)
    best = largest
    best_cost = tl.full((), 1 << 30, tl.int32)
    least = tl.full((), MIN_QUANTA, tl.int32)
    for rounds in tl.static_range(1, ROUNDS + 1):
        largest = _least_size(quanta, least, largest, tl.maximum(num_live, rounds * resident))
        count = _count(quanta, largest)
        cost = (count + resident - 1) // resident * (largest + START_COST)
        cost += tl.where(count > num_live, START_COST, 0)
        best = tl.where(cost < best_cost, largest, best)
        best_cost = tl.minimum(cost, best_cost)
    counts = (quanta + best - 1) // best
    ends = tl.cumsum(counts, 0)
    ended = tl.sum(((ends <= piece) & (token < num_tokens)).to(tl.int32))
    first = tl.max(tl.where(ends <= piece, ends, 0), 0)
    out = pieces + 8 * piece
    if piece < tl.sum(counts):
        length = tl.load(decode_lens + ended)
        begin = (piece - first) * best * QUANTUM
        tl.store(out, ended)
        tl.store(out + 1, tl.load(token_rows + ended))
        tl.store(out + 2, begin)
        tl.store(out + 3, tl.minimum(begin + best * QUANTUM, length))
        tl.store(out + 4, first)
        tl.store(out + 5, tl.cdiv(tl.cdiv(length, QUANTUM), best))
    else:
        tl.store(out + 1, 0)
        tl.store(out + 2, 0)
        tl.store(out + 3, 0)


@triton.jit
def _attend(
    query,
    keys,
    values,
    table,
    kv_head,
    start,
    stop,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
):
    """The GROUP heads of one key-value head, padded to HEADS, over positions start .. stop - 1, by matrix products.

    Returns maximum [HEADS], sum [HEADS] and unscaled result [HEADS, DIM].
    """
    position = tl.arange(0, TILE)
    head = tl.arange(0, HEADS)
    dim = tl.arange(0, DIM)
    in_dim = dim < HEAD_DIM
    offsets = (kv_head * GROUP + head[:, None]) * HEAD_DIM + dim[None, :]
    q = tl.load(query + offsets, mask=(head < GROUP)[:, None] & in_dim[None, :], other=0.0)
    maximum = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    result = tl.zeros((HEADS, DIM), tl.float32)
    at = start + position
    blocks = tl.load(table + at // BLOCK_SIZE, mask=at < stop, other=0)
    for tile in tl.range(start, stop, TILE, num_stages=STAGES):
        at = tile + position
        inside = at < stop
        slot = blocks.to(tl.int64) * BLOCK_SIZE + at % BLOCK_SIZE
        # The next tile's, so that its keys need not wait for them.
        blocks = tl.load(table + (at + TILE) // BLOCK_SIZE, mask=at + TILE < stop, other=0)
        place = (slot * KV_HEADS + kv_head)[:, None] * HEAD_DIM + dim[None, :]
        mask = inside[:, None] & in_dim[None, :]
        key = tl.load(keys + place, mask=mask, other=0.0)
        value = tl.load(values + place, mask=mask, other=0.0)
        scores = tl.dot(q, tl.trans(key), input_precision="ieee") * scale
        scores = tl.where(inside[None, :], scores, float("-inf"))
        new_maximum = tl.maximum(maximum, tl.max(scores, 1))
        weights = tl.exp2(scores - new_maximum[:, None])
        shrink = tl.exp2(maximum - new_maximum)
        total = total * shrink + tl.sum(weights, 1)
        result = tl.dot(weights.to(value.dtype), value, result * shrink[:, None], input_precision="ieee")
        maximum = new_maximum
    return maximum, total, result


@triton.jit
def _combine(
    partial_results,
    partial_weights,
    first_head,
    first_piece,
    num_pieces,
    num_heads,
    ALL_HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEADS: tl.constexpr,
    DIM: tl.constexpr,
    PARTS: tl.constexpr,
):
    """[HEADS, DIM]: the result of heads first_head .. first_head + num_heads - 1, from what the pieces left."""
    part = tl.arange(0, PARTS)
    head = tl.arange(0, HEADS)
    dim = tl.arange(0, DIM)
    maximum = tl.full((HEADS,), float("-inf"), tl.float32)
    total = tl.zeros((HEADS,), tl.float32)
    result = tl.zeros((HEADS, DIM), tl.float32)
    for start in range(0, num_pieces, PARTS):
        piece = first_piece + start + part
        place = piece[None, :] * ALL_HEADS + first_head + head[:, None]
        mask = (head < num_heads)[:, None] & (start + part < num_pieces)[None, :]
        # Not from L1: other programs wrote these.
        logs = tl.load(partial_weights + place, mask=mask, other=float("-inf"), cache_modifier=".cg")
        results = tl.load(
            partial_results + place[:, :, None] * HEAD_DIM + dim[None, None, :],
            mask=mask[:, :, None] & (dim < HEAD_DIM)[None, None, :],
            other=0.0,
            cache_modifier=".cg",
        )
        new_maximum = tl.maximum(maximum, tl.max(logs, 1))
        known = tl.where(head < num_heads, new_maximum, 0.0)
        weights = tl.exp2(logs - known[:, None])
        shrink = tl.exp2(maximum - known)
        total = total * shrink + tl.sum(weights, 1)
        result = result * shrink[:, None] + tl.sum(weights[:, :, None] * results, 1)
        maximum = new_maximum
    return result / tl.where(head < num_heads, total, 1.0)[:, None]


@triton.jit
def _decode_kernel(
    query,
    keys,
    values,
    block_table,
    pieces,
    partial_results,
    partial_weights,
    counters,
    out,
    scale,
    query_stride,
    table_stride,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    DIM: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    HEADS: tl.constexpr,
    TILE: tl.constexpr,
    STAGES: tl.constexpr,
    OUT_HEADS: tl.constexpr,
    PARTS: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Program (piece, key-value head): the GROUP heads that share its keys over one piece.

    partial_results [pieces, heads, HEAD_DIM] float32; partial_weights [pieces, heads] float32, the base 2 logarithms of
    their sums of weights.
    """
    ALL_HEADS: tl.constexpr = KV_HEADS * GROUP
    kv_head = tl.program_id(0) % KV_HEADS
    piece = tl.program_id(0) // KV_HEADS
    first_head = kv_head * GROUP
    # The work list is as old as the iteration: several kernels between have waited for it.
    token = tl.load(pieces + 8 * piece)
    row = tl.load(pieces + 8 * piece + 1)
    start = tl.load(pieces + 8 * piece + 2)
    stop = tl.load(pieces + 8 * piece + 3)
    first_piece = tl.load(pieces + 8 * piece + 4)
    num_pieces = tl.load(pieces + 8 * piece + 5)
    table = block_table + row.to(tl.int64) * table_stride
    wait_for_previous(OVERLAP)
    let_next_start(OVERLAP)
    if start < stop:
        token_query = query + token.to(tl.int64) * query_stride
        maximum, total, result = _attend(
            token_query, keys, values, table, kv_head, start, stop, scale,
            KV_HEADS, GROUP, HEAD_DIM, BLOCK_SIZE, HEADS, DIM, TILE, STAGES,
        )  # fmt: skip
        head = tl.arange(0, HEADS)
        dim = tl.arange(0, DIM)
        mask = (head < GROUP)[:, None] & (dim < HEAD_DIM)[None, :]
        token_out = out + (token.to(tl.int64) * ALL_HEADS + first_head) * HEAD_DIM
        result = result / tl.where(head < GROUP, total, 1.0)[:, None]
        if num_pieces == 1:
            tl.store(token_out + head[:, None] * HEAD_DIM + dim[None, :], result.to(out.dtype.element_ty), mask=mask)
        else:
            place = piece * ALL_HEADS + first_head + head
            tl.store(partial_results + place[:, None] * HEAD_DIM + dim[None, :], result, mask=mask)
            tl.store(partial_weights + place, maximum + tl.log2(total), mask=head < GROUP)
            tl.debug_barrier()
            arrived = tl.atomic_add(counters + token * KV_HEADS + kv_head, 1, sem="acq_rel")
            if arrived == num_pieces - 1:
                tl.store(counters + token * KV_HEADS + kv_head, 0)
                combined = _combine(
                    partial_results, partial_weights, first_head, first_piece, num_pieces, GROUP,
                    ALL_HEADS, HEAD_DIM, OUT_HEADS, DIM, PARTS,
                )  # fmt: skip
                out_head = tl.arange(0, OUT_HEADS)
                tl.store(
                    token_out + out_head[:, None] * HEAD_DIM + dim[None, :],
                    combined.to(out.dtype.element_ty),
                    mask=(out_head < GROUP)[:, None] & (dim < HEAD_DIM)[None, :],
                )


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
    if heads * head_dim > 2048 or row_bytes > 256:
        return DecodeConfig(heads, tile, 3, 4, 3, 4, 2)
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
        _plan_kernel[(self._planned,)](
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
        _decode_kernel[(self._planned * num_kv_heads,)](
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
