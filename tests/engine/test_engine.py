"""The engine on a tiny model: it generates, reports, cancels and ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from flover_backend.engine.interface import RequestEnded
from flover_backend.models.batch import Model
from flover_backend.request import FinishReason, SamplingParams
import tiny_llama
from lone import Collector, make_engine, make_request, run_alone


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return tiny_llama.load(tiny_llama.write(Path(tmp_path_factory.mktemp("tiny"))))


def test_alone_and_again_gives_the_same(model):
    request = make_request(1, [5, 6, 7], SamplingParams(max_tokens=30, temperature=1.0, seed=9, ignore_eos=True))
    first, second = run_alone(model, request), run_alone(model, request)
    assert first == second
    assert len(first[0].token_ids) == 30
    assert len(set(first[0].token_ids)) > 5
