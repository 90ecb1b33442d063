"""Run by the engine's interpreter: torch, its GPU, and what the engine would make of a model: files and memory.

Reads a list of `ModelQuestion` from standard input, writes an `Answer` as the last line of standard output. Loads no
weights: the headers of their files are read, and the arithmetic is a load's (engine/sizing.py).
"""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import safetensors
import torch

from flover_backend.config import ModelJson
from flover_backend.doctor.questions import Answer, ModelAnswer, ModelQuestion
from flover_backend.engine.load import largest_prompt
from flover_backend.engine.reserve import activation_bytes, reserve_for
from flover_backend.engine.sizing import (
    check_weights_fit,
    free_memory,
    kv_bytes_per_token,
    resolve_device,
    resolve_limits,
    resolve_num_blocks,
)
from flover_backend.errors import ConfigError
from flover_backend.host.checks import ENGINE_PACKAGES, Check
from flover_backend.host.pythons import version_tuple
from flover_backend.memory_limit import available_bytes
from flover_backend.models.batch import Model
from flover_backend.models.load import look_at_model

MIB, GIB = 1 << 20, 1 << 30
SPARE_ON_CPU = 512 * MIB
"""Triton and the fronts take some of the memory that an engine on the CPU leaves."""


def answer_to(questions: list[ModelQuestion]) -> Answer:
    """Everything that is asked."""
    engine = [*_packages(), *(_gpus() if torch.cuda.is_available() else ())]
    taken: Counter[str] = Counter()
    models = [ModelAnswer(one.name, list(_model(one.config, Path(one.model_dir), taken))) for one in questions]
    return Answer(engine, models)


def _packages() -> Iterator[Check]:
    found = {"torch": torch.__version__, "safetensors": safetensors.__version__}
    for name, oldest in ENGINE_PACKAGES.items():
        wanted = ".".join(map(str, oldest))
        if version_tuple(found[name]) < oldest:
            text = f"{found[name]} in {sys.executable}; {wanted} or later is needed"
            yield Check("fail", name, text, f"pip install '{name}>={wanted}' there, or set engine_python")
        else:
            yield Check("ok", name, f"{found[name]} in {sys.executable}")


def _gpus() -> Iterator[Check]:
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        name = torch.cuda.get_device_name(index)
        yield Check("ok", "GPU memory", f"{name}, {_size(free)} of {_size(total)} free")
    try:
        triton = importlib.import_module("triton")
        yield Check("ok", "triton", f"{triton.__version__}, the language of the GPU's kernels")
    except Exception as error:  # NOTE: whatever it raises, the engine would too.
        text = f"{sys.executable} cannot import the language of the GPU's kernels: {error}"
        yield Check("fail", "triton", text, "pip install 'triton>=3.6' there; a CUDA build of torch brings it")


def _model(config: ModelJson, model_dir: Path, taken: Counter[str]) -> Iterator[Check]:
    try:
        device = resolve_device(config.device)
        model = look_at_model(model_dir, config.dtype, str(device), config.load_format)
    except ConfigError as error:
        yield Check("fail", "model", str(error), "docs/models.md says which models and files can be served")
        return
    dtype = str(model.dtype).removeprefix("torch.")
    sizes = f"{model.config.architecture}, {model.num_parameters / 1e6:,.1f} M parameters in {dtype}"
    yield Check("ok", "model", f"{model_dir}: {sizes}")
    try:
        yield _memory(config, model, taken)
    except ConfigError as error:
        yield Check("fail", "memory", str(error), "docs/configuration.md says what each key takes")


def _memory(config: ModelJson, model: Model, taken: Counter[str]) -> Check:
    """The sum of a load. Raises `ConfigError` as a load would. `taken`: device -> bytes of the models before it."""
    on_gpu = model.device.type == "cuda"
    place = f"{'GPU' if on_gpu else 'CPU'}" + " beside the models before it" * bool(taken[model.device.type])
    free = max(0, (free_memory(model.device) if on_gpu else available_bytes()) - taken[model.device.type])
    check_weights_fit(model.weight_bytes, model.device, free)
    limits = resolve_limits(config, model)
    max_prompt = largest_prompt(config, model)
    reserve = reserve_for(model, limits.max_rows, max_prompt)
    num_blocks = resolve_num_blocks(config, limits, model, max(0, free - model.weight_bytes), reserve)
    kv = (num_blocks + 1) * config.block_size * kv_bytes_per_token(model)
    activations = reserve.total or activation_bytes(model, limits.max_rows, max_prompt)
    needed = model.weight_bytes + kv + activations
    taken[model.device.type] += needed
    rest = free - needed
    fit = num_blocks // -(-limits.max_model_len // config.block_size)
    text = (
        f"weights {_size(model.weight_bytes)} + activations about {_size(activations)} + KV {_size(kv)} of "
        f"{_size(free)} free on the {place}; {num_blocks * config.block_size} tokens of KV: "
        f"{fit} request{'s' * (fit != 1)} of max_model_len {limits.max_model_len} at once, max_rows {limits.max_rows}"
    )
    if rest < 0:
        advice = "lower kv_cache_bytes, max_rows or max_model_len, or free memory"
        return Check("fail", "memory", f"{text}; {_size(-rest)} too much", advice)
    if not on_gpu and rest < SPARE_ON_CPU:
        return Check("warn", "memory", f"{text}; {_size(rest)} are left", "Triton and the fronts need some too")
    return Check("ok", "memory", f"{text}; {_size(rest)} are left")


def _size(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f} GiB" if num_bytes >= GIB else f"{num_bytes / MIB:.0f} MiB"


if __name__ == "__main__":
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=list[ModelQuestion])
    sys.stdout.write("\n" + msgspec.json.encode(answer_to(asked)).decode() + "\n")
