"""Engines on the GPU's path built by hand for tests; everything that could be read unwritten is NaN."""

from __future__ import annotations

import os
from collections.abc import Callable

import torch

from flover_backend.engine.engine import Engine
from flover_backend.engine.gpu.build import build_gpu_runner
from flover_backend.engine.gpu.runner import GpuRunner
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import Model
from flover_backend.scheduler.config import ReorderMode, SchedulerConfig
from flover_backend.scheduler.plan import Plan, StepResult
from flover_backend.scheduler.scheduler import Scheduler

HAS_GPU = torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1"


class WatchedGpuRunner:
    """A `GpuRunner` that calls `watch` with each plan before it runs."""

    watch: Callable[[Plan], None] = staticmethod(lambda plan: None)

    def __init__(self, runner: GpuRunner) -> None:
        self._runner = runner

    def __getattr__(self, name: str) -> object:
        return getattr(self._runner, name)

    def run(self, plan: Plan) -> StepResult | None:
        self.watch(plan)
        return self._runner.run(plan)


class GpuEngines:
    """Builds runners once for each shape, since recording graphs takes long, and schedulers for each engine."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self._runners: dict[tuple[int, ...], GpuRunner] = {}

    def make(
        self,
        model: Model,
        *,
        max_rows: int = 8,
        max_model_len: int = 128,
        block_size: int = 8,
        num_blocks: int = 128,
        reorder: ReorderMode = "rows",
        budget: int = 512,
        pipeline_depth: int = 1,
        max_block_moves: int = 32,
        clock: Callable[[], float] = lambda: 0.0,
    ) -> Engine:
        """As tests/engine/lone.py's `make_engine`."""
        assert model is self.model
        config = SchedulerConfig(
            max_rows=max_rows,
            max_model_len=max_model_len,
            block_size=block_size,
            num_blocks=num_blocks,
            reorder=reorder,
            prefill_token_budget=budget,
            pipeline_depth=pipeline_depth,
            eos_token_ids=model.eos_token_ids,
            max_block_moves=max_block_moves,
            clock=clock,
        )
        return Engine(Scheduler(config), WatchedGpuRunner(self._runner(config)))

    def _runner(self, config: SchedulerConfig) -> GpuRunner:
        key = (config.max_rows, config.max_model_len, config.block_size, config.num_blocks, config.pipeline_depth)
        if key not in self._runners:
            model = self.model
            kv = KVBuffer(
                model.num_layers,
                config.num_blocks,
                config.block_size,
                model.num_kv_heads,
                model.head_dim,
                model.dtype,
                model.device,
            )
            for layer in (*kv.keys, *kv.values):
                layer.fill_(float("nan"))
            self._runners[key] = build_gpu_runner(model, kv, config, config.max_rows * config.max_model_len)
        runner = self._runners[key]
        # The engine before told of its last rows' deaths in no plan, and did not ask for its last result.
        runner.run(Plan(0, 0, dead_rows=list(range(config.max_rows))))
        while len(runner.results):
            runner.results.pop()
        return runner
