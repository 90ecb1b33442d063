"""SmolLM2 imported equals what transformers reads from the same GGUF: weights, logits, token ids, perplexity."""

from __future__ import annotations

import json
import re
import sysconfig
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, pre_tokenizers

from flover_backend.chat import render_chat
from tests.models.paged import Paged
from training.corpus import kjv_chapters, kjv_lines

LOGIT_TOLERANCE = 1e-3
"""Largest difference of a logit; they spread over some 30."""
NEAR_TIE = 1e-4
QUESTION = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Tokenizer:
    return Tokenizer.from_file(str(smollm2 / "tokenizer.json"))


def _lines_of_code() -> list[str]:
    """Lines with indented and aligned numbers, which the King James Bible has none of."""
    folder = Path(sysconfig.get_path("stdlib"))
    names = ("colorsys.py", "statistics.py", "random.py", "tarfile.py", "calendar.py")
    return [line for name in names for line in (folder / name).read_text("utf-8").splitlines()]


def test_weights_are_bit_exact(smollm2: Path, reference) -> None:
    ours, theirs = load_file(smollm2 / "model.safetensors"), reference.state_dict()
    assert [name for name in theirs if name not in ours] == ["lm_head.weight"]
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_config_and_settings(smollm2: Path, reference) -> None:
    from transformers import AutoConfig

    ours, theirs = AutoConfig.from_pretrained(smollm2), reference.config
    for key in ("hidden_size", "num_hidden_layers", "num_key_value_heads", "head_dim", "max_position_embeddings"):
        assert getattr(ours, key) == getattr(theirs, key), key
    assert ours.rope_parameters == theirs.rope_parameters
    assert ours.rms_norm_eps == theirs.rms_norm_eps
    assert json.loads((smollm2 / "generation_config.json").read_text())["eos_token_id"] == 2


def test_logits(ours, reference, tokenizer: Tokenizer, smollm2: Path) -> None:
    for text in (render_chat(smollm2, QUESTION), "In 1611, 66 books", "def f(x):\n    return x + 100\n"):
        ids = tokenizer.encode(text).ids
        expected = reference(torch.tensor([ids])).logits[0]
        (got,) = Paged(ours, 1, len(ids)).run([(0, ids)])
        torch.testing.assert_close(got, expected, atol=LOGIT_TOLERANCE, rtol=0)


def test_200_greedy_tokens(ours, reference, tokenizer: Tokenizer, smollm2: Path) -> None:
    """Ours, one by one; transformers', shown all that came before, would choose each of them, but for near ties."""
    prompt = tokenizer.encode(render_chat(smollm2, [{"role": "user", "content": "Tell me of Noah's ark."}])).ids
    paged, tokens = Paged(ours, 1, len(prompt) + 200), list(prompt)
    while len(tokens) < len(prompt) + 200:
        logits = paged.run([(0, tokens[sum(paged.lengths) :])])[0][-1]
        tokens.append(int(_without_end(logits).argmax()))
    rows = reference(torch.tensor([tokens[:-1]])).logits[0, len(prompt) - 1 :]
    assert len(rows) == 200
    for row, token in zip(rows, tokens[len(prompt) :], strict=True):
        allowed = _without_end(row)
        assert allowed.max() - allowed[token] < NEAR_TIE


def _without_end(logits: torch.Tensor) -> torch.Tensor:
    """No end of text (token 2) before all 200."""
    return logits.index_fill(0, torch.tensor([2]), -torch.inf)


def test_answer_makes_sense(reference, tokenizer: Tokenizer, smollm2: Path) -> None:
    ids = torch.tensor([tokenizer.encode(render_chat(smollm2, QUESTION)).ids])
    answer = reference.generate(ids, max_new_tokens=20, do_sample=False, pad_token_id=2)[0, ids.shape[1] :]
    assert "Paris" in tokenizer.decode(answer.tolist())


def test_token_ids_of_10000_lines(tokenizer: Tokenizer, reference_tokenizer: Tokenizer, record_property) -> None:
    """Equal, but for lines with white space before a digit, which transformers does not split off."""
    code = _lines_of_code()
    lines = code + kjv_lines()[: 10_000 - len(code)]
    assert len(lines) == 10_000
    ours, theirs = tokenizer.encode_batch(lines), reference_tokenizer.encode_batch(lines)
    differing = [line for line, a, b in zip(lines, ours, theirs, strict=True) if a.ids != b.ids]
    record_property("differing_lines", differing)
    print(f"{len(differing)} of {len(lines)} lines differ from transformers':", *differing, sep="\n")
    assert differing
    assert all(re.search(r"\s\d", line) for line in differing)


def test_pre_tokenizer_is_the_published_one(tokenizer: Tokenizer) -> None:
    """SmolLM2's own tokenizer.json spells it as digits one by one, then ByteLevel with its own expression."""
    published = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    odd = ["", " ", "  12  345", "a1b²½٣", "x\n\n 7", "don't 'Ve", "żółw 你好 🙂 \u00a0x", "\t\t9\r\n"]
    for line in odd + _lines_of_code():
        assert tokenizer.pre_tokenizer.pre_tokenize_str(line) == published.pre_tokenize_str(line)


def test_text_comes_back(tokenizer: Tokenizer) -> None:
    lines = [*kjv_lines()[:500], "  12  345", "żółw 你好 🙂", "\x00\x7f\t"]
    assert [tokenizer.decode(e.ids) for e in tokenizer.encode_batch(lines)] == lines


def test_special_tokens_are_whole(tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode("<|im_start|>user\nHi<|im_end|>")
    assert encoding.ids[0] == 1
    assert encoding.ids[-1] == 2
    assert tokenizer.decode(encoding.ids) == "user\nHi"


def test_perplexity_of_debians_text(ours, reference, tokenizer: Tokenizer) -> None:
    """Of Ruth, from the package bible-kjv-text, in windows of 512 tokens; within 0.1 %."""
    text = "\n".join(verse for chapter in kjv_chapters() if chapter.book == "Ruth" for verse in chapter.verses)
    ids = torch.tensor(tokenizer.encode(text).ids[:1024])
    windows = list(ids.split(512))
    theirs = _perplexity([reference(window[None]).logits[0] for window in windows], windows)
    mine = _perplexity([Paged(ours, 1, 512).run([(0, window.tolist())])[0] for window in windows], windows)
    assert 3 < theirs < 40
    assert abs(mine / theirs - 1) < 1e-3


def _perplexity(logits: list[torch.Tensor], windows: list[torch.Tensor]) -> float:
    losses = [
        torch.nn.functional.cross_entropy(scores[:-1], window[1:], reduction="sum")
        for scores, window in zip(logits, windows, strict=True)
    ]
    count = sum(len(window) - 1 for window in windows)
    return float(torch.exp(torch.stack(losses).sum() / count))
