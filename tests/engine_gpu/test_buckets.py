from __future__ import annotations

import pytest

from flover_backend.engine.gpu.buckets import (
    MAX_GRAPHED_TOKENS,
    TILE,
    bucket_of,
    fitting_budget,
    graphed_budget,
    row_buckets,
    token_buckets,
)


@pytest.mark.parametrize("max_rows", [1, 2, 3, 7, 8, 9, 32, 33, 100, 256, 300, 4096])
def test_rows_are_padded_little(max_rows):
    sizes = row_buckets(max_rows)
    assert sizes == sorted(dict.fromkeys(sizes)) and sizes[-1] >= max_rows and len(sizes) < 100
    assert sizes[-1] == 1 or sizes[-2] < max_rows
    for rows in range(1, max_rows + 1):
        assert rows <= bucket_of(sizes, rows) <= max(rows + 7, 2 * rows if rows < 8 else rows * 9 / 8 + 1)


@pytest.mark.parametrize("max_tokens", [1, 40, 512, 8448])
def test_mixed_iterations_are_padded_little(max_tokens):
    sizes = token_buckets(max_tokens)
    assert sizes == sorted(dict.fromkeys(sizes)) and sizes[-1] >= min(max_tokens, MAX_GRAPHED_TOKENS)
    assert sizes[-1] <= MAX_GRAPHED_TOKENS and len(sizes) < 40
    for tokens in range(1, min(max_tokens, sizes[-1]) + 1):
        assert tokens <= bucket_of(sizes, tokens) <= max(tokens + 15, tokens * 9 / 8 + 1)


def test_more_than_the_largest_is_told():
    with pytest.raises(ValueError, match="9 given; the largest size is 8"):
        bucket_of(row_buckets(8), 9)


def test_a_budget_fills_tiles_or_a_graph_where_it_can():
    sizes = token_buckets(MAX_GRAPHED_TOKENS)
    for rows in (1, 5, 32, 250):
        for budget in (1, 7, 100, 226, 400, 700):
            fitting = fitting_budget(rows, budget)
            assert budget / 2 <= fitting <= budget
            assert rows + fitting in sizes or fitting == budget or (rows + fitting) % TILE == 0
    assert fitting_budget(32, 226) == 256 - 32
    assert fitting_budget(25, 400) == 384 - 25
    assert fitting_budget(250, 50) == 50, "6 would fill a tile"
    assert fitting_budget(3, 60) == 48 - 3


def test_beside_rows_a_budget_stays_within_the_graphs():
    assert graphed_budget(0, 4096) == 4096
    assert graphed_budget(24, 4096) == MAX_GRAPHED_TOKENS - 24
    assert graphed_budget(24, 300) == 300
    assert graphed_budget(2000, 4096) == TILE
