"""The bundled models: where they are, how big, that they write their source's words; both libraries agree on them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flover_backend.bundled import names, path_of
from flover_backend.errors import ConfigError
from flover_backend.models.load import load_model, read_model_config
from tests.models.paged import Paged
from training.corpus import kjv_chapters

NAMES = ["gptj-demo", "llama-demo"]
at_length = pytest.mark.parametrize(
    "directory", [pytest.param("gptj-demo", marks=pytest.mark.slow), "llama-demo"], indirect=True, scope="module"
)
PROMPTS = ["In the beginning", "And Jesus said unto", "The LORD is my", "\n"]
LOGIT_TOLERANCE = 2e-4
NEAR_TIE = 1e-4
KNOWN_WORDS = 0.97
"""Least share of generated words that occur in the King James Bible."""


@pytest.fixture(scope="module", params=NAMES)
def directory(request: pytest.FixtureRequest) -> Path:
    return path_of(request.param)


@pytest.fixture(scope="module")
def reference(directory: Path):
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(1)
    return AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def tokenizer(directory: Path):
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(directory / "tokenizer.json"))


def _sample(reference, tokenizer, prompt: str, seed: int, max_new_tokens: int, **settings) -> list[int]:
    torch.manual_seed(seed)
    ids = torch.tensor([tokenizer.encode(prompt).ids])
    options = {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "pad_token_id": 1} | settings
    return reference.generate(ids, max_new_tokens=max_new_tokens, **options)[0, ids.shape[1] :].tolist()


def _known_share(text: str) -> float:
    known = dict.fromkeys(w for c in kjv_chapters() for v in c.verses for w in re.findall(r"[A-Za-z']+", v.lower()))
    words = re.findall(r"[A-Za-z']+", text.lower())
    return sum(word in known for word in words) / len(words)


def test_named() -> None:
    assert names() == NAMES
    assert all((path_of(name) / "model.safetensors").is_file() for name in NAMES)
    with pytest.raises(ConfigError, match="'gpt5' is no bundled model; allowed: a directory, or gptj-demo, llama-demo"):
        path_of("gpt5")


def test_the_llama_shares_key_value_heads() -> None:
    config = json.loads((path_of("llama-demo") / "config.json").read_text())
    assert config["num_key_value_heads"] < config["num_attention_heads"]


def test_the_gptj_has_all_that_sets_a_gptj_apart() -> None:
    config = json.loads((path_of("gptj-demo") / "config.json").read_text())
    assert 0 < config["rotary_dim"] < config["n_embd"] // config["n_head"]
    assert config["tie_word_embeddings"] is False
    weights = load_file(path_of("gptj-demo") / "model.safetensors")
    biases = [tensor for name, tensor in weights.items() if name.endswith("bias")]
    assert len(biases) == 3 * config["n_layer"] + 2  # each layer's norm, fc_in, fc_out; the last norm, lm_head
    assert all(tensor.dtype == torch.float16 and tensor.any() for tensor in weights.values())


def test_size(directory: Path) -> None:
    assert (directory / "model.safetensors").stat().st_size <= 4_000_000
    assert sum(path.stat().st_size for path in directory.iterdir()) <= 4_000_000
    assert read_model_config(directory).max_position_embeddings == 2048


def test_tokenizer_takes_any_bytes(tokenizer) -> None:
    text = "In the beginning 1:1 — żółw 你好 🙂\x00\r\n\t<|x|>"
    encoding = tokenizer.encode(text)
    assert encoding.tokens[0] == "<s>"
    assert tokenizer.decode(encoding.ids) == text
    assert tokenizer.decode([0, 1]) == ""


def test_logits_and_200_greedy_tokens_equal_transformers(directory, reference, tokenizer) -> None:
    ours = load_model(directory, "float32", "cpu", lambda stage, fraction: None)
    assert (ours.eos_token_ids, ours.max_model_len) == ((1,), 2048)
    for prompt in PROMPTS:
        ids = tokenizer.encode(prompt).ids
        settings = {"max_new_tokens": 200, "do_sample": False, "pad_token_id": 1, "eos_token_id": None}
        whole = reference.generate(torch.tensor([ids]), **settings)[0]
        expected = reference(whole[None]).logits[0]
        paged = Paged(ours, 2, len(whole))
        (prefill,) = paged.run([(0, whole.tolist())])
        decode = torch.cat([paged.run([(1, ids)])[0], *(paged.run([(1, [t])])[0] for t in whole[len(ids) :].tolist())])
        for logits in (prefill, decode):
            torch.testing.assert_close(logits, expected, atol=LOGIT_TOLERANCE, rtol=0)
            chosen = logits[len(ids) - 1 : -1]
            gap = chosen.max(-1).values - chosen.gather(1, whole[len(ids) :, None])[:, 0]
            assert gap.max() < NEAR_TIE


@at_length
def test_writes_its_source_words(reference, tokenizer) -> None:
    texts = [
        tokenizer.decode(_sample(reference, tokenizer, p, i, 150, min_new_tokens=150)) for i, p in enumerate(PROMPTS)
    ]
    assert _known_share(" ".join(texts)) > KNOWN_WORDS


@at_length
def test_long_text_does_not_fall_apart(reference, tokenizer) -> None:
    ids = _sample(reference, tokenizer, "In the beginning", 3, 2000, min_new_tokens=2000)
    last = tokenizer.decode(ids[-500:])
    assert _known_share(last) > KNOWN_WORDS
    words = last.split()
    assert len(dict.fromkeys(words)) > len(words) / 5


@at_length
def test_ends_by_itself(reference, tokenizer) -> None:
    ends = [_sample(reference, tokenizer, PROMPTS[i % 4], i, 300)[-1] == 1 for i in range(12)]
    assert sum(ends) >= 3
