"""Logits and greedy tokens of random models equal transformers', over paged blocks, chunks and packed sequences."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hf_models import SHAPES, make, save
from paged import Paged

from flover_backend.models.load import load_model

TOLERANCE = {torch.float32: 2e-4}
"""Largest difference of a logit, on logits whose standard deviation is about 3."""


def _load(model: object, path: Path, dtype: torch.dtype):
    return load_model(save(model, path), str(dtype).removeprefix("torch."), "cpu", lambda stage, fraction: None)


def _prompts(vocab: int, lengths: list[int], seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (n,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", SHAPES)
def test_prefill_and_decode_logits(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    reference = make(SHAPES[name], dtype)
    model = _load(reference, tmp_path, dtype)
    prompts = _prompts(model.vocab_size, [40, 75, 2])
    expected = [reference(torch.tensor([p])).logits[0].float() for p in prompts]
    assert 1 < expected[1].std() < 10
    paged = Paged(model, 3, 80)
    a, b, c = prompts
    got: list[list[torch.Tensor]] = [[], [], []]
    for work in (
        [(0, a[:33]), (1, b[:20])],
        [(0, a[33:34]), (1, b[20:50]), (2, c)],
        [(0, a[34:35]), (1, b[50:60])],
        *([(1, b[60 + i : 61 + i]), (0, a[35 + i : 36 + i])] for i in range(5)),
        *([(1, b[65 + i : 66 + i])] for i in range(10)),
    ):
        for (sequence, _), logits in zip(work, paged.run(work), strict=True):
            got[sequence].append(logits)
    for logits, want in zip(got, expected, strict=True):
        torch.testing.assert_close(torch.cat(logits), want, atol=TOLERANCE[dtype], rtol=0)
