"""Engines around one model, each with a stream of its own: they share weights and nothing that any of them writes."""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import FunctionType, MethodType, ModuleType

import pytest
import tiny_gptj
import tiny_llama
import torch
from gpu_engine import HAS_GPU

from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.load import load_model
from flover_backend.scheduler.config import SchedulerConfig


def _children(thing: object) -> Iterator[object]:
    if isinstance(thing, dict):
        yield from thing.values()
    elif isinstance(thing, list | tuple | set):
        yield from thing
    elif isinstance(thing, partial):
        yield from (thing.func, *thing.args, *thing.keywords.values())
    elif isinstance(thing, MethodType):
        yield thing.__self__
    elif isinstance(thing, FunctionType):
        yield from (cell.cell_contents for cell in thing.__closure__ or ())
    elif type(thing).__module__.startswith("flover_backend"):
        yield from vars(thing).values() if hasattr(thing, "__dict__") else ()
        yield from (
            getattr(thing, slot)
            for kind in type(thing).__mro__
            for slot in getattr(kind, "__slots__", ())
            if slot != "__dict__"
        )


def _objects(root: object) -> list[object]:
    """All that can be reached from `root` through containers, functions and objects of ours."""
    seen, left, found = set(), [root], []
    while left:
        thing = left.pop()
        if id(thing) not in seen:
            seen.add(id(thing))
            found.append(thing)
            left += _children(thing)
    return found


def _storages(root: object) -> set[int]:
    tensors = [thing for thing in _objects(root) if isinstance(thing, torch.Tensor)]
    return {t.untyped_storage().data_ptr() for t in tensors if t.layout == torch.strided and t.numel()}


@pytest.mark.parametrize("tiny", [tiny_llama, tiny_gptj], ids=["llama", "gptj"])
def test_two_runners_around_a_model_share_its_weights_alone(tmp_path: Path, tiny: ModuleType) -> None:
    from flover_backend.engine.gpu.build import build_gpu_runner
    from flover_backend.kernels.gpu.matmul import Workspace

    model = load_model(tiny.write(tmp_path), "float16", "cuda" if HAS_GPU else "cpu", lambda stage, fraction: None)
    config = SchedulerConfig(max_rows=1, max_model_len=32, block_size=8, num_blocks=4, pipeline_depth=1)
    runners = []
    for _ in range(2):
        kv = KVBuffer(model.num_layers, 4, 8, model.num_kv_heads, model.head_dim, model.dtype, model.device)
        runners.append(build_gpu_runner(model, kv, config, 15))
    first, second = map(_storages, runners)
    weights = _storages(model)
    assert first & second <= weights < first
    assert len(first - weights) > 20 and any(isinstance(thing, Workspace) for thing in _objects(runners[0]))


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["13b", "8b", "gptj-6b"])
def test_instances_at_the_same_time_give_the_tokens_of_one_after_another(name: str) -> None:
    """Two layers in full width, so that products share K and every kernel is the one of the whole model."""
    from benchmarks.suite.ways import EngineWays
    from benchmarks.suite.workload import BenchRequest, Workload
    from flover_backend.bench_engine.shapes import SHAPES, Shape

    layers = "n_layer" if name == "gptj-6b" else "num_hidden_layers"
    source = random.Random(5)
    requests = [
        BenchRequest(
            0.0, tuple(source.randrange(3, 30000) for _ in range(source.randint(1, 60))), source.randint(60, 200)
        )
        for _ in range(32)
    ]
    workload = Workload("burst", "constant", tuple(requests))
    with EngineWays(Shape(name, name, SHAPES[name].config | {layers: 2}), "cuda", "random", print) as ways:
        tokens: dict[str, list[list[int]]] = {}
        for way in ("serial", "instances"):
            heard: list[list[int]] = [[] for _ in requests]
            ways.run(way, workload, on_tokens=lambda number, ids, heard=heard: heard[number].extend(ids))  # type: ignore[misc]
            tokens[way] = heard
    assert tokens["instances"] == tokens["serial"]
    assert [len(ids) for ids in tokens["serial"]] == [request.new_tokens for request in requests]
