"""From a configuration and a model directory to a warm engine: the order of things, and what is logged of it."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

from flover_backend.channel import EngineInfo
from flover_backend.config import ModelJson, to_json
from flover_backend.engine.costs import IterationCost
from flover_backend.engine.engine import Engine
from flover_backend.engine.gpu.buckets import fitting_budget, graphed_budget
from flover_backend.engine.interface import Runner
from flover_backend.engine.reserve import reserve_for
from flover_backend.engine.rowstate import RowState
from flover_backend.engine.runner import TorchRunner
from flover_backend.engine.sizing import (
    Limits,
    check_weights_fit,
    free_memory,
    kv_bytes_per_token,
    memory_parts,
    refuse_out_of_memory,
    resolve_device,
    resolve_limits,
    resolve_num_blocks,
)
from flover_backend.engine.stages import StageTimes
from flover_backend.engine.warmup import warm_up
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import Model
from flover_backend.models.load import load_model, weight_bytes
from flover_backend.scheduler.config import SchedulerConfig
from flover_backend.scheduler.scheduler import Scheduler

log = logging.getLogger(__name__)


def load_engine(
    config: ModelJson, model_dir: Path, progress: Callable[[str, float], None]
) -> tuple[Engine, EngineInfo]:
    """Load and warm up (`LoadEngine` in engine/interface.py). Raises `ConfigError` for what an operator can mend."""
    device, times = resolve_device(config.device), StageTimes(progress)
    needed = weight_bytes(model_dir, config.dtype, str(device), config.load_format)
    check_weights_fit(needed, device, free_memory(device))
    with refuse_out_of_memory("reading the weights", f"they take {needed / 2**30:.2f} GiB", device):
        model = load_model(model_dir, config.dtype, str(device), times, config.load_format)
    engine, limits = build_engine(config, model, times)
    info = engine_info(config, model_dir, engine, limits)
    times("ready", 1.0)
    log.info("load: %s", times.describe())
    return engine, info


def build_engine(config: ModelJson, model: Model, progress: Callable[[str, float], None]) -> tuple[Engine, Limits]:
    """A warm engine around a loaded model."""
    limits = resolve_limits(config, model)
    budget = config.prefill_token_budget or _default_budget(model)
    max_prompt = largest_prompt(config, model)
    free_bytes = free_memory(model.device)
    reserve = reserve_for(model, limits.max_rows, max_prompt)
    num_blocks = resolve_num_blocks(config, limits, model, free_bytes, reserve)
    scheduler_config = SchedulerConfig(
        max_rows=limits.max_rows,
        max_model_len=limits.max_model_len,
        block_size=config.block_size,
        num_blocks=num_blocks,
        reorder=config.reorder,
        prefill_token_budget=budget,
        split_budget=fitting_budget if callable(budget) and model.device.type == "cuda" else None,
        max_queued_requests=config.max_queued_requests,
        max_queued_tokens=config.max_queued_tokens,
        pipeline_depth=1 if model.device.type == "cuda" else 0,
        eos_token_ids=model.eos_token_ids,
    )
    progress("warm-up", 0.0)
    with refuse_out_of_memory(
        "making the KV buffer and graphs", memory_parts(model, reserve, free_bytes), model.device
    ):
        kv = KVBuffer(
            model.num_layers, num_blocks, config.block_size, model.num_kv_heads, model.head_dim, model.dtype,
            model.device,
        )  # fmt: skip
        runner, activations = _warm_runner(model, kv, scheduler_config, max_prompt, progress)
    _log_configuration(config, model, limits, kv, scheduler_config)
    _log_memory(model, kv, activations, free_bytes)
    return Engine(Scheduler(scheduler_config), runner), limits


def largest_prompt(config: ModelJson, model: Model) -> int:
    """Most prompt tokens of an iteration: rows that decode beside them leave less room, never more."""
    budget = config.prefill_token_budget or _default_budget(model)
    return budget if isinstance(budget, int) else budget(0, 0, 0)


def _default_budget(model: Model) -> Callable[[int, int, int], int]:
    """Most prompt tokens beside a number of decoding rows (`SchedulerConfig.prefill_budget`)."""
    budget = IterationCost.of(model).prefill_token_budget
    if model.device.type != "cuda":
        return budget

    def graphed(num_decode_rows: int, num_kv_tokens: int, num_computed: int) -> int:
        return graphed_budget(num_decode_rows, budget(num_decode_rows, num_kv_tokens, num_computed))

    return graphed


def _warm_runner(
    model: Model, kv: KVBuffer, config: SchedulerConfig, max_prompt: int, progress: Callable[[str, float], None]
) -> tuple[Runner, int]:
    """A runner that is fast from its first plan on, and the bytes that activations and graphs took."""
    if model.device.type == "cuda":
        from flover_backend.engine.gpu.build import build_gpu_runner

        free_before = free_memory(model.device)
        gpu_runner = build_gpu_runner(model, kv, config, max_prompt, lambda done: progress("graphs", done))
        return gpu_runner, free_before - free_memory(model.device)
    activations = warm_up(model, kv, config.max_rows, max_prompt)
    state = RowState(config.max_rows, config.max_model_len, config.block_size, model.vocab_size, model.device)
    return TorchRunner(model, kv, state, config.pipeline_depth), activations


def engine_info(config: ModelJson, model_dir: Path, engine: Engine, limits: Limits) -> EngineInfo:
    """What fronts must know; `front_number` and `pid` are for the process to fill in."""
    model = engine.runner.model
    return EngineInfo(
        front_number=0,
        model_dir=str(model_dir),
        vocab_size=model.vocab_size,
        eos_token_ids=list(model.eos_token_ids),
        max_model_len=limits.max_model_len,
        max_rows=limits.max_rows,
        block_size=config.block_size,
        num_blocks=engine.runner.kv.num_blocks,
        max_tokens_limit=limits.max_tokens_limit,
        max_tokens_default=limits.max_tokens_default,
        max_prompt_bytes=limits.max_prompt_bytes,
        max_queued_requests=config.max_queued_requests,
        max_queued_tokens=config.max_queued_tokens,
        dtype=str(model.dtype).removeprefix("torch."),
        device=str(model.device),
        reorder=config.reorder,
        pid=0,
    )


def _log_configuration(
    config: ModelJson, model: Model, limits: Limits, kv: KVBuffer, scheduler_config: SchedulerConfig
) -> None:
    effective = to_json(config) | {
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(model.device),
        "max_rows": limits.max_rows,
        "max_model_len": limits.max_model_len,
        "max_tokens_limit": limits.max_tokens_limit,
        "max_tokens_default": limits.max_tokens_default,
        "max_prompt_bytes": limits.max_prompt_bytes,
        "kv_cache_bytes": kv.num_bytes,
        "kv_cache_tokens": kv.num_blocks * kv.block_size,
        "prefill_token_budget": {rows: scheduler_config.prefill_budget(rows) for rows in (0, 1, limits.max_rows)},
    }
    log.info("configuration: %s", json.dumps(effective))


def _log_memory(model: Model, kv: KVBuffer, activations: int, free_bytes: int) -> None:
    """The arithmetic; `free_bytes` were free before the KV buffer."""
    parts = {"weights": model.weight_bytes, "activations": activations, "KV": kv.num_bytes}
    parts["free"] = max(0, free_bytes - activations - kv.num_bytes)
    log.info(
        "memory: %s; KV is (%d + 1) blocks x %d tokens x %d bytes",
        ", ".join(f"{name} {size / 2**20:.1f} MiB" for name, size in parts.items()),
        kv.num_blocks,
        kv.block_size,
        kv_bytes_per_token(model),
    )
