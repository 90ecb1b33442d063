"""SmolLM2 as it was imported, and the same file as transformers reads it; both once a session."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import gguf
import pytest
import torch
from tokenizers import Tokenizer

from flover_backend.importer.smollm2 import fetch_gguf, fetch_smollm2


@pytest.fixture(scope="session")
def gguf_file() -> Path:
    return fetch_gguf()


@pytest.fixture(scope="session")
def smollm2() -> Path:
    return fetch_smollm2()


_READ, _NAMES = functools.cache(gguf.GGUFReader), functools.cache(gguf.get_tensor_name_map)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """transformers parses the file for each thing that it makes of it, and lists all names anew for each module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "GGUFReader", lambda path: _READ(str(path)))
        patch.setattr(gguf, "get_tensor_name_map", _NAMES)
        yield


@pytest.fixture(scope="session")
def reference_tokenizer(gguf_file: Path) -> Tokenizer:
    from transformers import AutoTokenizer

    with _parsed_once():
        return AutoTokenizer.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name).backend_tokenizer


@pytest.fixture(scope="session")
def reference(gguf_file: Path):
    """transformers' model of the GGUF file itself, float32, as its from_pretrained(gguf_file=...) makes it.

    That very call would ask for a further package, accelerate.
    """
    from transformers import AutoConfig, LlamaForCausalLM
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    with _parsed_once():
        config = AutoConfig.from_pretrained(gguf_file.parent, gguf_file=gguf_file.name)
        with torch.device("meta"):
            names = LlamaForCausalLM(config)
        tensors = load_gguf_checkpoint(gguf_file, return_tensors=True, model_to_load=names)["tensors"]
    model = LlamaForCausalLM.from_pretrained(None, config=config, state_dict=tensors, dtype=torch.float32)
    return model.eval().requires_grad_(False)


@pytest.fixture(scope="session")
def ours(smollm2: Path):
    """Our model of the imported directory, float32."""
    from flover_backend.models.load import load_model

    return load_model(smollm2, "float32", "cpu", lambda stage, fraction: None)
