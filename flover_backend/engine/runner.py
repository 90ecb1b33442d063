"""Applies plans: row state, forward pass, sampling, block copies. Decides nothing; knows no request."""

from __future__ import annotations

import time
from collections import deque

import torch

from flover_backend.engine.packing import pack
from flover_backend.engine.rowstate import RowState
from flover_backend.engine.sampler import Sampler
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import Model
from flover_backend.scheduler.plan import Plan, StepResult


class TorchRunner:
    """`Runner` (engine/interface.py) that launches one torch operation after another; what the CPU runs.

    Owns the row state, the KV tensors and the sampler. With `pipeline_depth` 1 a plan's result is held back until
    the next `run`, as a device that runs ahead of the host does.
    """

    def __init__(
        self, model: Model, kv: KVBuffer, state: RowState, pipeline_depth: int = 0, record_margins: bool = False
    ) -> None:
        self.model = model
        self.kv = kv
        self.state = state
        self.pipeline_depth = pipeline_depth
        self.sampler = Sampler(state, model.eos_token_ids, record_margins)
        self.bytes_moved = 0
        """By the latest plan's moves."""
        self.waited_seconds: float | None = None
        """Nothing is waited for: `run` computes."""
        self._reorder_seconds = 0.0
        self._held: deque[StepResult] = deque()

    @torch.inference_mode()
    def run(self, plan: Plan) -> StepResult | None:
        """Compute `plan`; return the result of plan `plan.step - pipeline_depth`, None where there is none."""
        self._reorder(plan)
        self.state.apply(plan)
        self._held.append(StepResult(plan.step, []) if plan.is_empty else self._iterate(plan))
        return self._held.popleft() if len(self._held) > self.pipeline_depth else None

    @property
    def is_done(self) -> bool:
        """Always: `run` computes."""
        return True

    def take_reorder_seconds(self) -> float:
        """How long the moves took since this was asked before."""
        seconds, self._reorder_seconds = self._reorder_seconds, 0.0
        return seconds

    def _reorder(self, plan: Plan) -> None:
        self.bytes_moved = 0
        if not plan.block_moves and not plan.row_moves:
            return
        started = time.perf_counter()
        self.kv.copy_blocks(plan.block_moves)
        self.state.move(plan.row_moves)
        self._reorder_seconds += time.perf_counter() - started
        self.bytes_moved = len(plan.block_moves) * self.kv.bytes_per_block
        self.bytes_moved += len(plan.row_moves) * self.state.bytes_per_row

    def _iterate(self, plan: Plan) -> StepResult:
        packed = pack(plan, self.state)
        hidden = self.model.forward(packed.batch, self.kv)
        rows = plan.sampled_rows()
        if not rows:
            return StepResult(plan.step, [])
        sampled = self.sampler.sample(self.model.logits(hidden[packed.sampled]), rows)
        self.kv.copy_blocks(plan.block_copies)
        logprobs = {} if sampled.logprobs is None else sampled.logprobs.to_host()
        return StepResult(plan.step, sampled.token_ids.tolist(), logprobs)
