"""Drives a `GpuRunner` by plans made by hand, and keeps the logits that each token was chosen from."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

from flover_backend.engine.gpu.build import build_gpu_runner
from flover_backend.engine.gpu.iteration import Sampled
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import Model
from flover_backend.request import SamplingParams
from flover_backend.scheduler.config import SchedulerConfig
from flover_backend.scheduler.plan import Chunk, Join, Plan, TableUpdate

GREEDY = SamplingParams(max_tokens=1 << 20, temperature=0.0, ignore_eos=True)


class Driven:
    """Rows whose prompts are fed piece by piece; every row keeps its own scattered blocks."""

    def __init__(self, model: Model, max_rows: int, max_len: int, max_prompt_tokens: int) -> None:
        self.block_size, per_row = 16, -(-max_len // 16)
        num_blocks = max_rows * per_row + 3
        kv = KVBuffer(
            model.num_layers, num_blocks, self.block_size, model.num_kv_heads, model.head_dim, model.dtype, model.device
        )
        for layer in (*kv.keys, *kv.values):
            layer.fill_(float("nan"))  # what another sequence may have left: must never be read
        config = SchedulerConfig(
            max_rows=max_rows, max_model_len=max_len, block_size=self.block_size, num_blocks=num_blocks,
            reorder="rows", prefill_token_budget=max_prompt_tokens, pipeline_depth=0,
            eos_token_ids=model.eos_token_ids, clock=lambda: 0.0,
        )  # fmt: skip
        self._runner = build_gpu_runner(model, kv, config, max_prompt_tokens)
        ids = random.Random(0).sample(range(1, num_blocks + 1), max_rows * per_row)
        self._blocks = [tuple(ids[row * per_row : (row + 1) * per_row]) for row in range(max_rows)]
        self._step, self._logits = 0, torch.empty(0)
        self._push = self._runner._push
        self._runner._push = self._keep
        self.prompts: dict[int, list[int]] = {}
        self.tokens: dict[int, list[int]] = {}
        self.logits: dict[int, list[torch.Tensor]] = {}
        self._fed: dict[int, int] = {}

    def join(self, row: int, prompt: list[int]) -> None:
        """A row begins anew; its prompt is fed by `step`."""
        self.prompts[row], self.tokens[row], self.logits[row], self._fed[row] = prompt, [], [], 0

    def step(self, pieces: Sequence[tuple[int, int]] = (), decodes: Sequence[int] = ()) -> None:
        """One iteration: so many more tokens of these rows' prompts, and one of each decoding row."""
        joins = [Join(row, self.prompts[row], [], GREEDY, 0) for row, _ in pieces if not self._fed[row]]
        plan = Plan(
            self._step,
            num_rows=len(decodes) + len(pieces),
            joins=joins,
            dead_rows=[join.row for join in joins],
            table_updates=[TableUpdate(join.row, 0, self._blocks[join.row]) for join in joins],
            chunks=[self._chunk(row, count) for row, count in pieces],
            decode_rows=sorted(decodes),
        )
        self._step, self._logits = self._step + 1, torch.empty(0)
        result = self._runner.run(plan)
        assert result is not None and result.step == plan.step
        for row, token, logits in zip(plan.sampled_rows(), result.token_ids, self._logits, strict=True):
            self.tokens[row].append(token)
            self.logits[row].append(logits)

    def _chunk(self, row: int, count: int) -> Chunk:
        start = self._fed[row]
        self._fed[row] += count
        return Chunk(row, start, self.prompts[row][start : start + count], self._fed[row] == len(self.prompts[row]))

    def _keep(self, plan: Plan, sampled: Sampled, places: Sequence[int]) -> None:
        """Graphs write their logits anew each time."""
        self._logits = sampled.logits[list(places)].float().clone()
        self._push(plan, sampled, places)
