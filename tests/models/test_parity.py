"""Logits and greedy tokens of random models equal transformers', over paged blocks, chunks and packed sequences."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hf_models import BASE, GPTJ_SHAPES, SHAPES, Shape, make, save
from paged import Paged

from flover_backend.models.batch import Model
from flover_backend.models.load import load_model

GAIN = {torch.float32: 3.0, torch.bfloat16: 1.0, torch.float16: 1.0}
"""Standard deviation of the logits. In half precision a larger one makes transformers itself differ by whole logits."""
TOLERANCE = {torch.float32: 2e-4, torch.bfloat16: 0.2, torch.float16: 0.025}
"""Largest difference of one logit from transformers' in the same dtype."""
NEAR_TIE = 1e-4
LENGTHS = [40, 75, 2]
ALL = SHAPES | GPTJ_SHAPES


def _load(model: Any, path: Path, dtype: torch.dtype) -> Model:
    return load_model(save(model, path), str(dtype).removeprefix("torch."), "cpu", lambda stage, fraction: None)


def _prompts(vocab: int, lengths: list[int], seed: int = 1) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, vocab, (n,), generator=generator).tolist() for n in lengths]


def _logits(model: Model, prompts: list[list[int]]) -> list[torch.Tensor]:
    """All positions' logits of three prompts, prefilled in packed chunks beside decode rows, then token by token."""
    a, b, c = prompts
    paged = Paged(model, 3, 80)
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
    return [torch.cat(rows) for rows in got]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", ALL)
def test_prefill_and_decode_logits(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    reference = make(ALL[name], dtype, gain=GAIN[dtype])
    prompts = _prompts(BASE["vocab_size"], LENGTHS)
    got = torch.cat(_logits(_load(reference, tmp_path, dtype), prompts))
    expected = torch.cat([reference(torch.tensor([p])).logits[0].float() for p in prompts])
    assert expected.std() > 0.8 * GAIN[dtype]
    torch.testing.assert_close(got, expected, atol=TOLERANCE[dtype], rtol=0)
    if dtype != torch.float32:
        exact = torch.cat([reference.float()(torch.tensor([p])).logits[0] for p in prompts])
        assert (got - exact).square().mean() < 3 * (expected - exact).square().mean()


@pytest.mark.parametrize(
    "name",
    [
        *("llama-gqa", "llama-mqa-tied", "llama-llama3-rope", "mistral", "qwen2", "qwen3", "gptj"),
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("gptj-whole-heads", "gptj-tied")),
    ],
)
def test_200_greedy_tokens(name: str, tmp_path: Path) -> None:
    reference = make(ALL[name], seed=7)
    model = _load(reference, tmp_path, torch.float32)
    prompts = _prompts(model.vocab_size, [5, 33, 90], seed=3)
    paged = Paged(model, 3, 300)
    last = [logits[-1].argmax().item() for logits in paged.run(list(enumerate(prompts)))]
    tokens = [[t] for t in last]
    for _ in range(199):
        for row, logits in enumerate(paged.run([(i, [t[-1]]) for i, t in enumerate(tokens)])):
            tokens[row].append(logits.argmax().item())
    compared = [_compare(reference, prompt, got) for prompt, got in zip(prompts, tokens, strict=True)]
    assert sum(compared) > 500, "so many near ties that nothing is shown"


def _compare(reference: Any, prompt: list[int], got: list[int]) -> int:
    """Assert that transformers', shown all that came before, chooses each token, but for near ties; how many it chose.

    Every choice being its own, they are the tokens that it would generate.
    """
    logits = reference(torch.tensor([prompt + got[:-1]])).logits[0, len(prompt) - 1 :]
    chosen = logits.gather(1, torch.tensor(got)[:, None])[:, 0]
    assert len(got) == len(logits) == 200 and (logits.max(1).values - chosen < NEAR_TIE).all()
    return int((logits.argmax(1) == torch.tensor(got)).sum())


def test_auto_dtype_on_the_cpu_is_float32(tmp_path: Path) -> None:
    path = save(make(SHAPES["llama-gqa"], torch.bfloat16), tmp_path)
    assert load_model(path, "auto", "cpu", lambda stage, fraction: None).dtype == torch.float32


@pytest.mark.parametrize("name", ["llama-gqa", "llama-mha-untied", "llama-mqa-tied", "mistral", *GPTJ_SHAPES])
def test_packing_and_batching_change_at_most_the_rounding(name: str, tmp_path: Path) -> None:
    """Prompts alone and packed, and decode rows alone and beside others (on an AVX-512 machine: equal bit by bit)."""
    model = _load(make(ALL[name]), tmp_path, torch.float32)
    prompts = _prompts(model.vocab_size, [31, 64, 9, 200])
    alone, together = Paged(model, 4, 240), Paged(model, 4, 240)
    single = [alone.run([(i, prompt)])[0] for i, prompt in enumerate(prompts)]
    fused = together.run(list(enumerate(prompts)))
    for token in range(40):
        single += [alone.run([(i, [token])])[0] for i in range(4)]
        fused += together.run([(i, [token]) for i in range(4)])
    torch.testing.assert_close(torch.cat(single), torch.cat(fused), atol=1e-4, rtol=0)


def test_model_describes_itself(tmp_path: Path) -> None:
    shape = Shape("Llama", {"tie_word_embeddings": True, "eos_token_id": [2, 5]})
    reference = make(shape)
    model = _load(reference, tmp_path, torch.float32)
    assert model.num_parameters == reference.num_parameters()
    assert model.weight_bytes >= 4 * model.num_parameters
    assert (model.num_layers, model.num_kv_heads, model.head_dim, model.vocab_size) == (3, 2, 16, 307)
    assert (model.max_model_len, model.eos_token_ids) == (512, (2, 5))
    assert model.logits(torch.empty(0, 64)).shape == (0, 307)
