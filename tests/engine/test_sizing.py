"""Sizes on a GPU, from figures that stand in for one: what is reserved, what is refused, with which arithmetic."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from flover_backend.bench_engine.shapes import SHAPES
from flover_backend.config import ModelJson
from flover_backend.engine.reserve import reserve_for
from flover_backend.engine.sizing import (
    Limits,
    check_weights_fit,
    kv_bytes_per_token,
    refuse_out_of_memory,
    resolve_limits,
    resolve_num_blocks,
)
from flover_backend.engine.stages import StageTimes
from flover_backend.errors import ConfigError
from flover_backend.models.load import read_model_config

GIB = 1 << 30
CUDA, CPU = torch.device("cuda"), torch.device("cpu")


def model(device: torch.device = CUDA, **keys: Any) -> Any:
    """What sizing reads of LLaMA-13B in float16."""
    facts = {"num_layers": 40, "num_kv_heads": 40, "head_dim": 128, "vocab_size": 32000, "max_model_len": 2048}
    facts |= {"weight_bytes": 26_032_000_000, "dtype": torch.float16}
    facts |= {"config": SimpleNamespace(activation_width=2 * 5120 + 3 * 13824)}
    return SimpleNamespace(device=device, **(facts | keys))


def blocks(free: int, of: Any = None, **keys: Any) -> int:
    config, of = ModelJson(**keys), of or model()
    limits = resolve_limits(config, of)
    return resolve_num_blocks(config, limits, of, free, reserve_for(of, limits.max_rows, 8192))


def test_a_13b_model_reserves_less_than_two_gib_and_a_cpu_nothing() -> None:
    reserve = reserve_for(model(), 256, 8192)
    assert 8448 * 51712 * 2 < reserve.activations < 1.25 * GIB
    assert 0.1 * GIB < reserve.graphs < 0.75 * GIB
    assert reserve.total < 2 * GIB
    assert reserve_for(model(CPU), 256, 8192).total == 0
    assert reserve_for(model(), 8, 64).total < 0.6 * GIB


def test_a_gptj_6b_s_reserve_follows_its_width(tmp_path: Path) -> None:
    config = read_model_config(SHAPES["gptj-6b"].write(tmp_path))
    assert config.activation_width == 2 * 4096 + 4096 + 2 * 16384, "x, residual, attended, and fc_in before and after"
    facts = {"num_layers": 28, "num_kv_heads": 16, "head_dim": 256, "vocab_size": 50400, "weight_bytes": 12_102_000_000}
    gptj = model(config=config, **facts)
    assert kv_bytes_per_token(gptj) == 2 * 28 * 4096 * 2
    reserve = reserve_for(gptj, 256, 8192)
    assert 8448 * config.activation_width * 2 < reserve.activations < 1.25 * GIB
    assert reserve.total < 2 * GIB
    assert blocks(4 * GIB, gptj, max_rows=1) == 2048 // 16


def test_the_default_is_nine_tenths_of_what_is_free_beside_the_reserve() -> None:
    free, block_bytes = 110 * GIB, 16 * kv_bytes_per_token(model())
    usable = free - reserve_for(model(), 256, 8192).total
    assert blocks(free) == int(usable * 0.9) // block_bytes - 1
    assert blocks(free, kv_cache_fraction=0.5) == int(usable * 0.5) // block_bytes - 1


def test_no_more_than_rows_can_use() -> None:
    assert blocks(110 * GIB, max_rows=4) == 4 * 2048 // 16


@pytest.mark.parametrize("keys", [{}, {"kv_cache_fraction": 0.01}, {"kv_cache_tokens": 2047}])
def test_too_little_for_one_request_is_refused(keys: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as caught:
        blocks((100 if keys else 3) * GIB, **keys)
    text = str(caught.value)
    for part in ("one request of max_model_len 2048 needs 128 blocks", "weights 24.24 GiB", "activations", "graphs"):
        assert part in text
    assert "free after the weights" in text and (f"{next(iter(keys))} {keys[next(iter(keys))]}" in text if keys else 1)


def test_less_free_than_the_reserve_is_refused_without_negative_numbers() -> None:
    with pytest.raises(ConfigError, match="holds 0 blocks"):
        blocks(GIB // 2)


def test_more_than_is_free_beside_the_reserve_is_refused() -> None:
    free = 100 * GIB
    with pytest.raises(ConfigError, match="kv_cache_bytes 107374182400") as caught:
        blocks(free, kv_cache_bytes=free)
    assert "free after the weights 100.00 GiB" in str(caught.value)
    fits = free - reserve_for(model(), 256, 8192).total
    assert blocks(free, kv_cache_bytes=fits) == fits // (16 * kv_bytes_per_token(model())) - 1


def test_weights_that_do_not_fit_are_refused_before_anything_is_allocated() -> None:
    with pytest.raises(ConfigError, match=r"the weights take 24\.24 GiB; 20\.00 GiB of the GPU are free"):
        check_weights_fit(26_032_000_000, CUDA, 20 * GIB)
    check_weights_fit(26_032_000_000, CUDA, 25 * GIB)
    check_weights_fit(26_032_000_000, CPU, GIB)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
    ],
    ids=["allocator", "graph", "kernel"],
)
def test_running_out_of_memory_becomes_a_refusal(error: Exception) -> None:
    with (
        pytest.raises(
            ConfigError, match=r"out of memory while making the KV buffer: weights 1, KV 2;.*GiB are free now"
        ),
        refuse_out_of_memory("making the KV buffer", "weights 1, KV 2", CPU),
    ):
        raise error


def test_other_errors_pass() -> None:
    with pytest.raises(RuntimeError, match="illegal"), refuse_out_of_memory("making graphs", "none", CPU):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def test_gpu_rows_are_256_by_default() -> None:
    assert resolve_limits(ModelJson(), model()) == Limits(256, 2048, 2048, 16, 16 * 2048)


def test_stages_are_timed_from_their_first_mention() -> None:
    clock, told = iter([1.0, 3.0, 3.5, 10.0]), []
    times = StageTimes(lambda *news: told.append(news), lambda: next(clock))
    for news in (("weights", 0.0), ("weights", 1.0), ("building", 0.0), ("warm-up", 0.0), ("ready", 1.0)):
        times(*news)
    assert times.seconds == {"weights": 2.0, "building": 0.5, "warm-up": 6.5}
    assert times.describe() == "weights 2.00 s, building 0.50 s, warm-up 6.50 s; 9.00 s in all"
    assert len(told) == 5
