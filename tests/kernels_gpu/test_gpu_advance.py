"""Advancing rows: against the reference on random states, and each rule alone."""

from __future__ import annotations

import random

import pytest
import torch

from flover_backend.kernels import row_layout as layout
from flover_backend.kernels.gpu import advance as subject
from flover_backend.kernels.gpu.row_changes import DEAD_ROW
from tests.kernels_gpu.compilation import compile_kernel

VOCAB = 50


def random_state(source: random.Random, num_rows: int) -> torch.Tensor:
    """`num_rows` rows of any kind and a dead one at the end."""
    rows = []
    for slot in range(num_rows):
        row = [source.randrange(1, 1 << 31) for _ in range(layout.ROW_INTS)]
        row[layout.NUM_TOKENS] = source.randrange(1, 20)
        row[layout.FINISH_AT] = source.choice([0, row[layout.NUM_TOKENS] + source.randrange(1, 4)])
        row[layout.FINISHED] = int(source.random() < 0.2)
        row[layout.IGNORE_EOS] = source.randrange(2)
        row[layout.MASKED_UNTIL] = row[layout.NUM_TOKENS] + source.randrange(-1, 3)
        row[layout.PENALTY_SLOT] = source.choice([-1, slot])
        rows.append(row)
    return torch.tensor([*rows, DEAD_ROW], dtype=torch.int32)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("num_eos", [0, 1, 3])
def test_equals_reference(device: torch.device, seed: int, num_eos: int) -> None:
    source = random.Random(seed)
    num_rows = 90
    state = random_state(source, num_rows)
    rows = torch.tensor([*source.sample(range(num_rows), 60), *[num_rows] * 9], dtype=torch.int32)
    tokens = torch.tensor([source.randrange(6) for _ in rows], dtype=torch.int32)
    eos = torch.tensor([2, 5, 0][:num_eos], dtype=torch.int32)
    counts = torch.randint(layout.SEEN_IN_PROMPT, 9, (num_rows, VOCAB), dtype=torch.int32)
    expected, expected_counts, expected_out = state.clone(), counts.clone(), torch.empty_like(tokens)
    subject.advance_reference(tokens, rows, expected, eos, expected_counts, expected_out)
    moved = [t.clone().to(device) for t in (tokens, rows, state, eos, counts, torch.full_like(tokens, -7))]
    subject.advance(*moved)
    assert moved[2].cpu().equal(expected)
    assert moved[4].cpu().equal(expected_counts)
    assert moved[5].tolist() == expected_out.tolist() == tokens.tolist()
    assert not expected.equal(state)


def advanced(device: torch.device, token: int, **fields: int) -> list[int]:
    """LAST_TOKEN, NUM_TOKENS, FINISHED after one token (eos is 2) of a row with 10 tokens that may have 20."""
    row = list(DEAD_ROW)
    for name, value in ({"NUM_TOKENS": 10, "FINISH_AT": 20, "LAST_TOKEN": 1} | fields).items():
        row[getattr(layout, name)] = value
    state = torch.tensor([row, DEAD_ROW], dtype=torch.int32, device=device)
    ints = {"dtype": torch.int32, "device": device}
    counts, out = torch.zeros((1, VOCAB), **ints), torch.full((3,), -7, **ints)
    subject.advance(
        torch.tensor([token, 7, 8], **ints), torch.tensor([0, 1, 1], **ints), state, torch.tensor([2], **ints),
        counts, out,
    )  # fmt: skip
    assert state[1].tolist() == list(DEAD_ROW)
    assert out.tolist() == [token, 7, 8]
    return state[0, [layout.LAST_TOKEN, layout.NUM_TOKENS, layout.FINISHED]].tolist()


def test_when_a_row_ends(device: torch.device) -> None:
    assert advanced(device, 3) == [3, 11, 0]
    assert advanced(device, 2) == [2, 11, 1]
    assert advanced(device, 2, IGNORE_EOS=1) == [2, 11, 0]
    assert advanced(device, 2, MASKED_UNTIL=12) == [2, 11, 0]
    assert advanced(device, 2, MASKED_UNTIL=11) == [2, 11, 1], "min_tokens counts the token that ends"
    assert advanced(device, 3, FINISH_AT=11) == [3, 11, 1]
    assert advanced(device, 2, FINISHED=1) == [1, 10, 0 + 1]


def test_what_cannot_be_is_refused(device: torch.device) -> None:
    ints = {"dtype": torch.int32, "device": device}
    state, counts = torch.tensor([DEAD_ROW], **ints), torch.zeros((1, VOCAB), **ints)
    with pytest.raises(ValueError, match="int32 vectors"):
        subject.advance(torch.zeros(2, **ints), torch.zeros(3, **ints), state, state[0, :0], counts, state[0, :2])
    with pytest.raises(ValueError, match="row state"):
        subject.advance(*[torch.zeros(2, **ints)] * 2, state[:, :8], state[0, :0], counts, torch.zeros(2, **ints))


def test_compiles_without_spills() -> None:
    names = ("tokens", "rows", "state", "eos_ids", "counts", "out")
    types = dict.fromkeys(names, "*i32:16") | {"num_rows": "i32", "counts_stride": "i32:16"}
    constants = {"NUM_EOS": 2, "BLOCK": 64, "OVERLAP": True}
    assert not compile_kernel(subject.__name__, "_advance_kernel", types, constants, num_warps=2).spilled_bytes
