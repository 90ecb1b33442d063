"""training/train_demo.py still runs, and the bundled files are what it makes: tokenizer, loss as it was reported."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from flover_backend.bundled import names, path_of
from training import train_demo

at_length = pytest.mark.parametrize("name", ["llama-demo", pytest.param("gptj-demo", marks=pytest.mark.slow)])
BOUNDS = {"llama-demo": 1.2, "gptj-demo": 1.25}
"""Bits per byte of the held-out chapters that a model is better than."""


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(path_of("llama-demo") / "tokenizer.json"))


def test_tokenizer_is_the_scripts() -> None:
    training, held_out = train_demo.split_chapters()
    assert (len(training), len(held_out)) == (1165, 24)
    expected = json.loads(train_demo.train_tokenizer(training).to_str())
    assert [json.loads((path_of(name) / "tokenizer.json").read_text()) for name in names()] == [expected] * len(names())


@pytest.mark.parametrize("name", names())
def test_config_is_the_scripts(name: str) -> None:
    stored, config = json.loads((path_of(name) / "config.json").read_text()), train_demo.CONFIGS[name].to_dict()
    written_by_save = {key: stored.pop(key) for key in ("architectures", "dtype", "transformers_version")}
    assert written_by_save["dtype"] == "float16"
    assert stored.items() <= config.items()


def test_documents_are_passages_and_the_same_each_time(tokenizer: Tokenizer) -> None:
    training, _ = train_demo.split_chapters()
    first, second = (train_demo.Documents(training[:40], tokenizer, 7) for _ in range(2))
    batch = first.batch(256)
    assert batch.shape == (16, 257)
    assert torch.equal(batch, second.batch(256))
    assert first.batch(2048).shape == (2, 2049)
    flat = batch.flatten().tolist()
    assert flat[0] == 0
    assert all(flat[i + 1] == 0 for i, token in enumerate(flat[:-1]) if token == 1)
    assert flat.count(1) > 5


@at_length
def test_held_out_loss_is_the_reported_one(name: str, tokenizer: Tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(path_of(name), dtype=torch.float32)
    _, held_out = train_demo.split_chapters()
    report = Path(train_demo.__file__).with_name(f"{name}.report.json")
    reported = json.loads(report.read_text())["held_out_bits_per_byte"]
    assert train_demo.bits_per_byte(model, tokenizer, held_out) == pytest.approx(reported, abs=1e-3)
    assert reported < BOUNDS[name]


@at_length
def test_a_few_steps_learn(name: str, tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(1)
    training, _ = train_demo.split_chapters()
    config = deepcopy(train_demo.CONFIGS[name])
    config.num_hidden_layers = 1
    model = train_demo.new_model(config)
    losses: list[float] = []
    documents = train_demo.Documents(training[:40], tokenizer, 1)
    train_demo.train(model, documents, 6, lambda step, loss: losses.append(loss))
    assert losses[0] == pytest.approx(7.4, abs=0.2)
    assert losses[-1] < losses[0]
    train_demo.save(model, tokenizer, tmp_path / "m")
    files = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert files == sorted(path.name for path in path_of(name).iterdir())


def test_attention_while_training_is_transformers() -> None:
    torch.manual_seed(1)
    config = deepcopy(train_demo.CONFIGS["gptj-demo"])
    config.num_hidden_layers = 2
    model = train_demo.new_model(config)
    plain = type(model)(config)
    plain.load_state_dict(model.state_dict())
    ids = torch.randint(0, config.vocab_size, (2, 100))
    torch.testing.assert_close(model(ids).logits, plain(ids).logits, atol=1e-5, rtol=0)
