"""Sizes that graphs are captured for. A batch runs in the smallest one that holds it, padded with dead rows."""

from __future__ import annotations

import bisect

MAX_GRAPHED_TOKENS = 1024
"""Mixed iterations of more tokens run without a graph, with no padding: their kernels outlast their launches."""


TILE = 128
"""Tokens of a tile of cuBLAS's products on Hopper: iterations of 384 tokens hardly take longer than those of 320, and
those of 416 a sixth more (LLaMA-13B, H200)."""


def row_buckets(max_rows: int) -> list[int]:
    """Decoding rows: doubling up to 8, then steps of at most an eighth (and 8 at least), up to `max_rows` or above."""
    sizes = [1, 2, 4, 8]
    while sizes[-1] < max_rows:
        sizes.append(sizes[-1] + max(8, _step(sizes[-1])))
    return sizes[: bisect.bisect_left(sizes, max_rows) + 1]


def token_buckets(max_tokens: int) -> list[int]:
    """Tokens of mixed iterations, up to `max_tokens` or above, at most `MAX_GRAPHED_TOKENS`."""
    sizes = [16]
    while sizes[-1] < min(max_tokens, MAX_GRAPHED_TOKENS):
        sizes.append(sizes[-1] + max(16, _step(sizes[-1])))
    return sizes


def graphed_budget(num_rows: int, budget: int) -> int:
    """`budget` prompt tokens, but beside decoding rows no more than graphs hold (or a tile, if the rows leave less):
    larger products are no faster a token, and the rows would wait longer."""
    return min(budget, max(MAX_GRAPHED_TOKENS - num_rows, TILE)) if num_rows else budget


def fitting_budget(num_rows: int, budget: int) -> int:
    """At most `budget` prompt tokens beside `num_rows` decoding rows: so many that products have few empty tiles.

    Multiples of `TILE` tokens in all, where that leaves half the budget; of few tokens, so many as fill a graph.
    """
    total = num_rows + budget
    filled = total // TILE * TILE - num_rows
    if total < TILE:
        sizes = token_buckets(TILE)
        place = bisect.bisect_right(sizes, total)
        filled = sizes[place - 1] - num_rows if place else 0
    return filled if 2 * filled >= budget else budget


def bucket_of(sizes: list[int], count: int) -> int:
    """The smallest size that is at least `count`. Raises ValueError above the largest."""
    place = bisect.bisect_left(sizes, count)
    if place == len(sizes):
        raise ValueError(f"{count} given; the largest size is {sizes[-1]}")
    return sizes[place]


def _step(size: int) -> int:
    """The power of two that is an eighth of `size` or a little less."""
    return 1 << max(0, size.bit_length() - 4)
