"""The backbone on the GPU's path: whatever runs beside it, a request's tokens equal those of its lone run on the CPU.

On a GPU with graphs, random traffic in every reorder mode; on a CPU the same kernels under Triton's interpreter, on a
dozen iterations made by hand in which everything happens once.
"""

from __future__ import annotations

import pytest
import tiny_gptj
import tiny_llama
from backbone import Backbone, Traffic, Visit, traffics
from gpu_engine import HAS_GPU, GpuEngines
from hypothesis import HealthCheck, Phase, given, settings
from lone import make_request

from flover_backend.bundled import names, path_of
from flover_backend.models.load import load_model
from flover_backend.request import SamplingParams

MODES = ("none", "rows", "compact")
ARCHITECTURES = ("llama", "gptj")
HAPPENS = (
    "tokens", "fused iterations", "mixed iterations", "chunked prompts", "preemptions", "row_moves", "block_moves",
    "forks", "block_copies",
)  # fmt: skip


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return _backbone(tiny_llama.write(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def gptj(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    return _backbone(tiny_gptj.write(tmp_path_factory.mktemp("gptj"), seed=1))


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


def full_traffic() -> Traffic:
    """Few tokens, yet a chunked prompt, a fork, a preemption, moves of rows and blocks, and nearly every parameter."""
    eos = tiny_llama.EOS
    visits = [
        (1, 3, {"max_tokens": 3, "temperature": 0.0, "ignore_eos": True, "logprobs": 2}),
        (0, 3, {"max_tokens": 3, "seed": 5, "top_k": 9, "n": 2, "repetition_penalty": 1.2, "frequency_penalty": 0.4,
                "ignore_eos": True}),
        (2, 20, {"max_tokens": 6, "temperature": 0.0, "min_tokens": 3, "logit_bias": {eos: 5.0, 7: 2.0},
                 "stop_token_ids": (9,)}),
        (1, 12, {"max_tokens": 8, "temperature": 0.7, "seed": 6, "top_p": 0.9, "min_p": 0.02, "presence_penalty": 0.5,
                 "cumulative_logprob": True}),
    ]  # fmt: skip
    requests = [
        make_request(key, [(11 * key + 5 * i) % tiny_llama.VOCAB for i in range(length)], SamplingParams(**params))
        for key, (_, length, params) in enumerate(visits)
    ]
    arrivals = [arrival for arrival, _, _ in visits]
    return Traffic([Visit(r, a) for r, a in zip(requests, arrivals, strict=True)], 4, 6, 12, 3)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_everything_happens_and_tokens_equal_those_of_the_request_alone_on_the_cpu(request, architecture):
    backbone = request.getfixturevalue(architecture)
    backbone.check(full_traffic(), "compact", 1)
    assert all(backbone.seen[name] > 0 for name in HAPPENS), backbone.seen


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("reorder", MODES)
def test_tokens_equal_those_of_the_request_alone_on_the_cpu(request, architecture, reorder):
    check(request.getfixturevalue(architecture), reorder, 12, (2, 5, 8))


@pytest.mark.gpu
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("reorder", MODES)
def test_tokens_equal_in_a_crowd(request, architecture, reorder):
    check(request.getfixturevalue(architecture), reorder, 5, (20, 30))


@pytest.mark.gpu
@pytest.mark.parametrize("name", names())
def test_tokens_of_the_bundled_model_equal_the_cpus(name):
    trained = _backbone(path_of(name))
    check(trained, "rows", 4, (20, 30))
    assert trained.seen["near ties"] <= max(1, trained.seen["requests"] / 1000), trained.seen
