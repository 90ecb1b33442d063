"""The first kernel of an iteration against its reference."""

from __future__ import annotations

import pytest
import torch

from flover_backend.kernels import row_layout
from flover_backend.kernels.prepare import FROM_STATE, PreparedTokens, prepare_reference

NUM_ROWS, MAX_BLOCKS, BLOCK_SIZE = 200, 9, 16


@pytest.fixture
def facts(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Row state of live, finished and dead rows, and a block table."""
    source = torch.Generator().manual_seed(0)
    state = torch.zeros((NUM_ROWS, row_layout.ROW_INTS), dtype=torch.int32)
    state[:, row_layout.LAST_TOKEN] = torch.randint(1, 1000, (NUM_ROWS,), generator=source)
    state[:, row_layout.NUM_TOKENS] = torch.randint(1, MAX_BLOCKS * BLOCK_SIZE, (NUM_ROWS,), generator=source)
    state[:, row_layout.FINISH_AT] = torch.randint(0, 2, (NUM_ROWS,), generator=source) * 500
    state[:, row_layout.FINISHED] = torch.randint(0, 2, (NUM_ROWS,), generator=source)
    table = torch.randint(1, 5000, (NUM_ROWS, MAX_BLOCKS), generator=source).int()
    return state.to(device), table.to(device)


def poisoned(num_tokens: int, device: torch.device) -> PreparedTokens:
    out = PreparedTokens.empty(num_tokens, device)
    for tensor in (out.input_ids, out.positions, out.slot_mapping, out.token_rows, out.decode_lens):
        tensor.fill_(-7)
    return out


def check(got: PreparedTokens, expected: PreparedTokens) -> None:
    for name in ("input_ids", "positions", "slot_mapping", "token_rows", "decode_lens"):
        assert torch.equal(getattr(got, name), getattr(expected, name)), name


@pytest.mark.parametrize("num_tokens", [1, 31, 200])
def test_every_row_decodes(facts, device, num_tokens):
    from flover_backend.kernels.gpu.prepare import prepare_decode

    state, table = facts
    got = poisoned(num_tokens, device)
    prepare_decode(state, table, BLOCK_SIZE, got)
    rows = torch.arange(num_tokens, dtype=torch.int32, device=device)
    expected = prepare_reference(rows, torch.full_like(rows, FROM_STATE), rows, state, table, BLOCK_SIZE)
    check(got, expected)
    assert (got.decode_lens > 0).any() or num_tokens == 1


@pytest.mark.parametrize("num_tokens", [16, 130])
def test_rows_chunks_and_padding_are_mixed(facts, device, num_tokens):
    from flover_backend.kernels.gpu.prepare import prepare_mixed

    state, table = facts
    source = torch.Generator().manual_seed(num_tokens)
    rows = torch.randint(0, NUM_ROWS, (num_tokens,), generator=source).int()
    ids = torch.randint(0, 1000, (num_tokens,), generator=source).int()
    ids[: num_tokens // 3] = FROM_STATE
    positions = torch.randint(0, MAX_BLOCKS * BLOCK_SIZE, (num_tokens,), generator=source).int()
    given = torch.stack((rows, ids, positions)).to(device)
    got = poisoned(num_tokens, device)
    prepare_mixed(torch.cat((given, given), 1), state, table, BLOCK_SIZE, got)
    check(got, prepare_reference(*given, state, table, BLOCK_SIZE))


@pytest.mark.parametrize("num_tokens", [1, 2, 3, 16, 1499])
def test_no_length_has_kernels_of_its_own(device, num_tokens):
    """Triton compiles for pointers at 16 bytes and for others: a prompt must not wait for the others' kernels."""
    out = PreparedTokens.empty(num_tokens, device)
    vectors = (out.input_ids, out.positions, out.slot_mapping, out.token_rows, out.decode_lens)
    assert all(v.data_ptr() % 16 == 0 and v.is_contiguous() and len(v) == num_tokens for v in vectors)
