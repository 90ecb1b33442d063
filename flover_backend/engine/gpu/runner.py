"""Applies plans on a GPU: each iteration is a few uploads and a graph or two, launched while the one before still runs.

Decides nothing; knows no request. The order within a plan is scheduler/plan.py's.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

import torch

from flover_backend.engine.gpu.iteration import Sampled
from flover_backend.engine.gpu.logprobs import start_logprobs
from flover_backend.engine.gpu.mover import Mover
from flover_backend.engine.gpu.programs import Programs
from flover_backend.engine.gpu.results import Results
from flover_backend.engine.gpu.rows import DeviceRows
from flover_backend.kernels.sampling import raw_logprobs
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import Model
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import NULL_BLOCK, Join, Plan, StepResult, TableUpdate


class GpuRunner:
    """`Runner` (engine/interface.py). With `pipeline_depth` 1 the result of a plan is read one plan later."""

    def __init__(
        self, model: Model, kv: KVBuffer, rows: DeviceRows, programs: Programs, mover: Mover, pipeline_depth: int
    ) -> None:
        self.model, self.kv, self.state = model, kv, rows
        self.pipeline_depth = pipeline_depth
        self._programs, self._mover = programs, mover
        self.results = Results(rows.num_rows, pipeline_depth + 2, rows.device)
        self.waited_seconds: float | None = None
        """Of the latest `run`, for the result it returned; None: it returned none."""

    @property
    def bytes_moved(self) -> int:
        """What the latest plan's moves moved."""
        return self._mover.bytes_moved

    @property
    def is_done(self) -> bool:
        """The device has computed all that was launched."""
        return self.results.all_done

    def take_reorder_seconds(self) -> float:
        """How long the moves took that have ended on the device since this was asked before."""
        return self._mover.take_seconds()

    @torch.inference_mode()
    def warm_up(self) -> None:
        """Launch once what no graph holds (changes, moves, logprobs), so that no request waits until it is compiled.

        Afterwards every row is dead, as before, and everything on the device is done.
        """
        params = SamplingParams(
            max_tokens=1, min_tokens=1, stop_token_ids=(0,), logit_bias={0: 1.0}, presence_penalty=1.0
        )
        updates = [TableUpdate(0, 0, (NULL_BLOCK, NULL_BLOCK)), TableUpdate(0, 0, (NULL_BLOCK,))]
        moves = [(0, 1)] if self.state.max_rows > 1 else []
        null_moves = [(NULL_BLOCK, NULL_BLOCK)]
        with self._on_stream():
            for plan in (
                Plan(0, 1, joins=[Join(0, [0], [0], params, 0)], table_updates=updates),
                Plan(1, 1, block_moves=null_moves, row_moves=moves, dead_rows=[source for source, _ in moves]),
                Plan(2, 0, dead_rows=[1 if moves else 0]),
            ):
                self._change(plan)
            token = torch.zeros(1, dtype=torch.int64, device=self.state.device)
            raw_logprobs(torch.zeros((1, self.model.vocab_size), device=self.state.device), token, 1)
        if self._programs.stream is not None:
            torch.cuda.synchronize(self.state.device)
        self._mover.take_seconds()

    @torch.inference_mode()
    def run(self, plan: Plan) -> StepResult | None:
        """Launch `plan`; return the result of plan `plan.step - pipeline_depth`, None where there is none."""
        with self._on_stream():
            self._change(plan)
            self._launch(plan)
        if len(self.results) <= self.pipeline_depth:
            self.waited_seconds = None
            return None
        launched = time.monotonic()
        result = self.results.pop()
        self.waited_seconds = time.monotonic() - launched
        return result

    def _on_stream(self) -> AbstractContextManager[object]:
        return nullcontext() if self._programs.stream is None else torch.cuda.stream(self._programs.stream)

    def _change(self, plan: Plan) -> None:
        """Steps 1 to 5 of a plan's order."""
        self.state.upload(plan)
        self._mover.move(plan)
        self.state.apply()

    def _launch(self, plan: Plan) -> None:
        if plan.is_empty:
            self.results.push_nothing(plan.step)
        elif not plan.chunks and len(plan.decode_rows) + len(plan.idle_rows) == plan.num_rows:
            self._push(plan, self._programs.decode(plan), plan.decode_rows)
        else:
            sampled = self._programs.mixed(plan)
            self._mover.copy_blocks(plan.block_copies)
            if sampled is None:
                self.results.push_nothing(plan.step)
            else:
                self._push(plan, sampled, range(len(plan.sampled_rows())))

    def _push(self, plan: Plan, sampled: Sampled, places: Sequence[int]) -> None:
        """Entry `places[i]` of what was sampled is `plan.sampled_rows()[i]`'s."""
        logprobs = None
        if self.state.occupants.num_logprobs:
            params = [self.state.params[row] for row in plan.sampled_rows()]
            logprobs = start_logprobs(sampled, params, places)
        self.results.push(plan.step, sampled.token_ids, places, logprobs)
