"""What the benchmark of kernels alone calls, it calls rightly: on tiny sizes, with a clock in the graphs' place."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch

from flover_backend.bench_engine import kernels
from flover_backend.bench_engine.figures import Spread
from flover_backend.bench_engine.shapes import Shape, _config

FAST = Spread.of([1e9])


class _Once:
    def __init__(self, work: Callable[[], object]) -> None:
        self.replay = work


def _wall(replay: Callable[[], object], repeats: int) -> list[float]:
    started = time.perf_counter()
    replay()
    return [time.perf_counter() - started]


@pytest.fixture(autouse=True)
def _no_graphs(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    if device.type == "cpu":
        monkeypatch.setattr(kernels, "captured", _Once)
        monkeypatch.setattr(kernels, "replay_seconds", _wall)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 30, 1 << 30))
        monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
        monkeypatch.setattr(kernels, "_CACHE_BYTES", 1)
        monkeypatch.setattr(kernels, "_LAUNCHES", 2)


@pytest.mark.parametrize("kv_heads", [2, 1])
def test_attention_alone(device: torch.device, kv_heads: int) -> None:
    shape = Shape("tiny", "Tiny", _config("LlamaForCausalLM", "float16", (101, 32, 48, 1, 2, kv_heads), 64))
    case = kernels.AttentionCase(shape, 2, device, max_len=40)
    assert all(second > 0 for second in case.seconds())
    assert case.kv_bytes % (2 * kv_heads * 16 * 2) == 0


def test_reorder_alone(device: torch.device) -> None:
    rows = kernels._row_moves(device)
    assert "8 of 32 rows move" in rows.what and rows.details["value"] > 0
    shape = Shape("tiny", "Tiny", _config("LlamaForCausalLM", "float16", (101, 32, 48, 1, 2, 2), 64))
    lines = list(kernels._block_copies(device, FAST, shape, num_blocks=80, many=33))
    assert [line.what.split(":")[1].split()[0] for line in lines] == ["32", "an", "33"]
