"""Logits of the GPU's path equal those of transformers, over graphs, chunks, packed prompts and decode steps.

References compute in float32 with the weights rounded to the dtype under test, so that what differs is activations'
rounding alone. float32: 1e-3 of the largest logit. In half precision each layer rounds some ten tensors to u = 2^-11
(float16) or 2^-8 (bfloat16) relative; over the few layers here this adds up to a few u in the logits, and 16 u of their
norm is allowed. That a kernel rounds once too often shows in the other bound: no more than twice transformers' own
error in the same dtype.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from driven import Driven
from hf_models import Shape, make, save
from transformers.models.gptj.modeling_gptj import create_sinusoidal_positions

from flover_backend.models.load import load_model
from flover_backend.models.rope import inverse_frequencies

pytestmark = pytest.mark.gpu

TINY = {"hidden_size": 256, "intermediate_size": 352, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 4}  # fmt: skip
MIDDLE = {"hidden_size": 1024, "intermediate_size": 2816, "num_hidden_layers": 5, "num_attention_heads": 8,
          "num_key_value_heads": 8, "vocab_size": 4099}  # fmt: skip
GPTJ_TINY = {"n_embd": 256, "n_layer": 2}
GPTJ_MIDDLE = {"n_embd": 1024, "n_layer": 5, "vocab_size": 4099}
SIZES = {"tiny": TINY, "middle": MIDDLE, "gptj-tiny": GPTJ_TINY, "gptj-middle": GPTJ_MIDDLE}
SHAPES = {
    "llama-mha": Shape("Llama", {"head_dim": 64}),
    "llama-gqa": Shape("Llama", {"num_key_value_heads": 2, "head_dim": 80}),
    "mistral": Shape("Mistral", {"num_key_value_heads": 1, "head_dim": 128, "sliding_window": None}),
    "qwen2": Shape("Qwen2", {"num_key_value_heads": 2, "tie_word_embeddings": True}),
    "qwen3": Shape("Qwen3", {"num_key_value_heads": 2, "head_dim": 128}),
}
GPTJ_SHAPES = {
    "gptj": Shape("GPTJ", {"n_head": 4, "rotary_dim": 64}),
    "gptj-partial": Shape("GPTJ", {"n_head": 4, "rotary_dim": 12, "tie_word_embeddings": True}),
}
CASES = [
    *((name, "gptj-tiny", torch.float32) for name in GPTJ_SHAPES),
    *(("gptj", "gptj-middle", dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
    *(("gptj-partial", "gptj-middle", dtype) for dtype in (torch.float32, torch.float16, torch.bfloat16)),
    *((name, "tiny", torch.float32) for name in SHAPES),
    *((name, "middle", torch.float32) for name in ("llama-gqa", "qwen2", "qwen3")),
    *((name, "middle", torch.float16) for name in SHAPES),
    *((name, "middle", torch.bfloat16) for name in ("llama-mha", "mistral", "qwen3")),
]
NORM_TOLERANCE = {torch.float32: 1e-3, torch.float16: 16 * 2**-11, torch.bfloat16: 16 * 2**-8}
NEAR_TIE = {torch.float32: 1e-3, torch.float16: 0.02}
LENGTHS = [40, 75, 2, 150]
NUM_DECODES = 12


def load(
    shape: Shape, size: dict[str, Any], dtype: torch.dtype, path: Path, device: torch.device, gain: float | None = None
) -> tuple[Any, Any]:
    """transformers' model in `dtype` on the device, and ours."""
    gain = gain or (3.0 if dtype == torch.float32 else 1.0)
    reference = make(Shape(shape.family, size | shape.keys), dtype, gain=gain)
    name = str(dtype).removeprefix("torch.")
    model = load_model(save(reference, path), name, device.type, lambda stage, fraction: None)
    reference.to(device)
    # NOTE: `.to(dtype)` has rounded these too, which turns far tokens by a wrong angle.
    for module in reference.modules():
        if hasattr(module, "inv_freq"):
            module.inv_freq = inverse_frequencies(model.config).to(device)
        if hasattr(module, "embed_positions"):
            exact = create_sinusoidal_positions(module.max_positions, module.pos_embd_dim)
            module.embed_positions = exact.to(device)
    return reference, model


def random_prompts(vocab_size: int, lengths: list[int]) -> list[list[int]]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randint(0, vocab_size, (n,), generator=generator).tolist() for n in lengths]


def mixed_lengths(driven: Driven, prompts: list[list[int]]) -> None:
    """Two prompts packed, one of them cut; then beside decoding rows; then all decode."""
    for row, prompt in enumerate(prompts):
        driven.join(row, prompt)
    driven.step([(0, len(prompts[0])), (1, 33)])
    driven.step([(1, len(prompts[1]) - 33), (2, len(prompts[2])), (3, 100)], [0])
    driven.step([(3, len(prompts[3]) - 100)], [0, 1, 2])
    for _ in range(NUM_DECODES):
        driven.step(decodes=[0, 1, 2, 3])


@torch.no_grad()
def of_transformers(reference: Any, driven: Driven, device: torch.device) -> torch.Tensor:
    """Of the same prompts and tokens, all positions that were sampled from, row by row."""
    logits = []
    for row, prompt in driven.prompts.items():
        tokens = torch.tensor([prompt + driven.tokens[row]], device=device)
        logits.append(reference(tokens).logits[0, len(prompt) - 1 : -1].float())
    return torch.cat(logits)


@pytest.mark.parametrize(("name", "size", "dtype"), CASES, ids=lambda part: str(part).removeprefix("torch."))
def test_logits(name: str, size: str, dtype: torch.dtype, tmp_path: Path, device: torch.device) -> None:
    reference, model = load((SHAPES | GPTJ_SHAPES)[name], SIZES[size], dtype, tmp_path, device)
    driven = Driven(model, 4, 256, 200)
    mixed_lengths(driven, random_prompts(model.vocab_size, LENGTHS))
    got = torch.cat([torch.stack(driven.logits[row]) for row in driven.prompts])
    own = of_transformers(reference, driven, device)
    exact = of_transformers(reference.float(), driven, device)
    assert len(got) == 4 * NUM_DECODES + 8 and exact.std() > 0.5
    norms = (got - exact).norm(dim=1) / exact.norm(dim=1)
    worst, own_error = float(norms.max()), float((own - exact).norm() / exact.norm())
    assert worst < NORM_TOLERANCE[dtype], f"{worst} of a row's norm; transformers' own error is {own_error}"
    if dtype == torch.float32:
        assert float((got - exact).abs().max()) < 1e-3 * float(exact.abs().max())
    else:
        error = float((got - exact).norm() / exact.norm())
        assert error < 2 * own_error, f"{error}; transformers' own is {own_error}"


@pytest.mark.parametrize("dtype", NEAR_TIE, ids=lambda part: str(part).removeprefix("torch."))
@pytest.mark.parametrize(("name", "size"), [("llama-gqa", "tiny"), ("gptj-partial", "gptj-tiny")])
def test_decode_graph_mixed_graph_and_large_iterations_sample_the_same(
    name: str, size: str, dtype: torch.dtype, tmp_path: Path, device: torch.device
) -> None:
    """A companion's prompt of 20 or 1500 tokens makes an iteration of decoding rows mixed, or too large for a graph."""
    _, model = load((SHAPES | GPTJ_SHAPES)[name], SIZES[size], dtype, tmp_path, device, gain=3.0)
    driven = Driven(model, 4, 1600, 2000)
    prompts = random_prompts(model.vocab_size, [40, 7, 90])
    companions = dict(zip((0, 20, 1500), random_prompts(model.vocab_size, [1, 20, 1500]), strict=True))
    tokens, logits = [], []
    for length, companion in companions.items():
        for row, prompt in enumerate(prompts):
            driven.join(row, prompt)
        driven.step([(row, len(prompt)) for row, prompt in enumerate(prompts)])
        for _ in range(20):
            if length:
                driven.join(3, companion)
            driven.step([(3, length)] if length else [], [0, 1, 2])
        tokens.append([driven.tokens[row] for row in range(3)])
        logits.append([torch.stack(driven.logits[row]) for row in range(3)])
    compared = 0
    for row in range(3):
        top = logits[0][row].topk(2).values
        ties = (top[:, 0] - top[:, 1] < NEAR_TIE[dtype]).nonzero()[:, 0].tolist()
        end = ties[0] if ties else len(top)
        compared += end
        for other in (1, 2):
            assert tokens[0][row][:end] == tokens[other][row][:end], row
    assert compared > 10, "so many near ties that nothing is shown"
