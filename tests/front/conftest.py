"""Parts of a front, without Triton and without an engine."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import fake_triton
import pytest
from adapter_host import adapter_with_fakes
from front_host import FrontHost

from flover_backend.bundled import path_of
from flover_backend.front.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """The bundled model's: byte-level BPE."""
    return Tokenizer(path_of("llama-demo") / "tokenizer.json")


@pytest.fixture
def registry() -> fake_triton.Registry:
    return fake_triton.Registry()


@pytest.fixture
def pb_utils(registry: fake_triton.Registry) -> Any:
    fake_triton.Logger.lines = []
    module = fake_triton.make_module(registry)
    fake_triton.install(module)
    return module


@pytest.fixture
def adapter(pb_utils: Any, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    return adapter_with_fakes(monkeypatch)


@pytest.fixture
def host(pb_utils: Any, tokenizer: Tokenizer) -> Iterator[FrontHost]:
    """A front with a tokenizer."""
    host = FrontHost(pb_utils, tokenizer)
    yield host
    host.close()


@pytest.fixture
def bare_host(pb_utils: Any) -> Iterator[FrontHost]:
    """A front of a model without a tokenizer."""
    host = FrontHost(pb_utils, None)
    yield host
    host.close()
