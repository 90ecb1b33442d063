"""training/train_demo.py still runs, and the bundled files are what it makes: tokenizer, loss as it was reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

from flover_backend.bundled import path_of
from training import train_demo

DIR = path_of("llama-demo")
REPORT = Path(train_demo.__file__).with_name("report.json")


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.from_file(str(DIR / "tokenizer.json"))


def test_tokenizer_is_the_scripts(tokenizer: Tokenizer) -> None:
    training, held_out = train_demo.split_chapters()
    assert (len(training), len(held_out)) == (1165, 24)
    assert json.loads(train_demo.train_tokenizer(training).to_str()) == json.loads(tokenizer.to_str())


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


def test_held_out_loss_is_the_reported_one(tokenizer: Tokenizer) -> None:
    model = LlamaForCausalLM.from_pretrained(DIR, dtype=torch.float32)
    _, held_out = train_demo.split_chapters()
    reported = json.loads(REPORT.read_text())["held_out_bits_per_byte"]
    assert train_demo.bits_per_byte(model, tokenizer, held_out) == pytest.approx(reported, abs=1e-3)
    assert reported < 1.2


def test_a_few_steps_learn(tokenizer: Tokenizer, tmp_path: Path) -> None:
    torch.manual_seed(1)
    training, _ = train_demo.split_chapters()
    model = LlamaForCausalLM(LlamaConfig(**(train_demo.CONFIG | {"num_hidden_layers": 1})))
    losses: list[float] = []
    documents = train_demo.Documents(training[:40], tokenizer, 1)
    train_demo.train(model, documents, 6, lambda step, loss: losses.append(loss))
    assert losses[0] == pytest.approx(7.4, abs=0.2)
    assert losses[-1] < losses[0]
    train_demo.save(model, tokenizer, tmp_path / "m")
    names = sorted(path.name for path in (tmp_path / "m").iterdir())
    assert names == sorted(path.name for path in DIR.iterdir())
