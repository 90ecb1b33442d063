"""A `GpuRunner` around a loaded model: its parts, and the recording of its graphs."""

from __future__ import annotations

from collections.abc import Callable

import torch

from flover_backend.engine.gpu.attention import BlockAttention
from flover_backend.engine.gpu.buckets import row_buckets
from flover_backend.engine.gpu.iteration import Iteration
from flover_backend.engine.gpu.mover import Mover
from flover_backend.engine.gpu.programs import Programs
from flover_backend.engine.gpu.rows import DeviceRows
from flover_backend.engine.gpu.runner import GpuRunner
from flover_backend.engine.gpu.sampling import DeviceSampler
from flover_backend.kernels.gpu.decode_attention import DecodeAttention
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import Model
from flover_backend.scheduler.config import SchedulerConfig


@torch.inference_mode()
def build_gpu_runner(
    model: Model,
    kv: KVBuffer,
    config: SchedulerConfig,
    max_prompt_tokens: int,
    progress: Callable[[float], None] = lambda fraction: None,
) -> GpuRunner:
    """Allocate row state and scratch, record every graph. `max_prompt_tokens`: most in one iteration."""
    slots = config.pipeline_depth + 2
    rows = DeviceRows(
        config.max_rows, config.max_model_len, kv.block_size, model.vocab_size, model.eos_token_ids, model.device
    )
    max_decodes = row_buckets(config.max_rows)[-1]
    decode = DecodeAttention(
        max_decodes,
        model.num_heads,
        model.num_kv_heads,
        model.head_dim,
        kv.block_size,
        rows.block_table.shape[1],
        model.dtype,
        model.device,
    )
    attention = BlockAttention(decode, max_decodes, rows.block_table, model.head_dim**-0.5)
    iteration = Iteration(
        model.fused(), kv, rows, attention, DeviceSampler(rows, model.vocab_size, model.eos_token_ids)
    )
    programs = Programs(iteration, rows, max_prompt_tokens + config.max_rows, slots)
    programs.record(progress)
    mover = Mover(kv, rows, max(config.max_block_moves, config.max_rows), slots)
    runner = GpuRunner(model, kv, rows, programs, mover, config.pipeline_depth)
    runner.warm_up()
    return runner
