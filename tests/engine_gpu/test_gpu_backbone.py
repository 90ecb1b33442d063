"""The backbone on the GPU's path: whatever runs beside it, a request's tokens equal those of its lone run on the CPU.

On a GPU with graphs, in every reorder mode; on a CPU the same kernels under Triton's interpreter, a few requests.
"""

from __future__ import annotations

import pytest
import tiny_llama
from backbone import Backbone, Traffic, traffics
from gpu_engine import HAS_GPU, GpuEngines
from hypothesis import HealthCheck, Phase, given, settings

from flover_backend.bundled import path_of
from flover_backend.models.load import load_model

MODES = ("none", "rows", "compact")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    path = tiny_llama.write(tmp_path_factory.mktemp("tiny"))
    return _backbone(path)


def _backbone(path) -> Backbone:
    model = load_model(path, "float32", "cuda" if HAS_GPU else "cpu", lambda stage, fraction: None)
    return Backbone(model, GpuEngines(model).make, alone=tiny_llama.load(path))


def check(backbone: Backbone, reorder: str, examples: int, num_requests: tuple[int, ...]) -> None:
    @settings(
        max_examples=examples,
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(traffics(backbone.model.vocab_size, num_requests))
    def run(traffic: Traffic) -> None:
        backbone.check(traffic, reorder, 1)

    run()


@pytest.mark.parametrize("reorder", MODES)
def test_tokens_equal_those_of_the_request_alone_on_the_cpu(backbone, reorder):
    check(backbone, reorder, 12 if HAS_GPU else 3, (2, 5, 8) if HAS_GPU else (3,))


@pytest.mark.gpu
@pytest.mark.parametrize("reorder", MODES)
def test_tokens_equal_in_a_crowd(backbone, reorder):
    check(backbone, reorder, 5, (20, 30))


@pytest.mark.gpu
def test_tokens_of_the_bundled_model_equal_the_cpus():
    trained = _backbone(path_of("llama-demo"))
    check(trained, "rows", 4, (20, 30))
    assert trained.seen["near ties"] <= max(1, trained.seen["requests"] / 1000), trained.seen
