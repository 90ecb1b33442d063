"""Engines built by hand for tests, and the reference of the backbone test: a request run alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from flover_backend.engine.engine import Engine
from flover_backend.engine.interface import RequestEnded, SequenceUpdate
from flover_backend.engine.rowstate import RowState
from flover_backend.engine.runner import TorchRunner
from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.batch import Model
from flover_backend.request import FinishReason, Request, SamplingParams
from flover_backend.scheduler.config import ReorderMode, SchedulerConfig
from flover_backend.scheduler.plan import Plan, StepResult, TokenLogprobs
from flover_backend.scheduler.scheduler import Scheduler


class WatchedRunner(TorchRunner):
    """Calls `watch` with each plan before it runs."""

    watch: Callable[[Plan], None] = staticmethod(lambda plan: None)

    def run(self, plan: Plan) -> StepResult | None:
        self.watch(plan)
        return super().run(plan)


def make_engine(
    model: Model,
    *,
    max_rows: int = 8,
    max_model_len: int = 128,
    block_size: int = 8,
    num_blocks: int = 128,
    reorder: ReorderMode = "rows",
    budget: int = 512,
    pipeline_depth: int = 0,
    max_block_moves: int = 32,
    record_margins: bool = False,
    clock: Callable[[], float] = lambda: 0.0,
) -> Engine:
    kv = KVBuffer(
        model.num_layers, num_blocks, block_size, model.num_kv_heads, model.head_dim, model.dtype, model.device
    )
    for layer in (*kv.keys, *kv.values):
        layer.fill_(float("nan"))  # what is read without having been written shows
        layer[0] = 0
    state = RowState(max_rows, max_model_len, block_size, model.vocab_size, model.device)
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
    return Engine(Scheduler(config), WatchedRunner(model, kv, state, pipeline_depth, record_margins))


def make_request(key: int, prompt_ids: list[int], params: SamplingParams, deadline: float | None = None) -> Request:
    return Request(key=key, prompt_ids=prompt_ids, params=params, arrival_time=0.0, deadline=deadline)


@dataclass
class Sequence:
    """What came of one sequence; `margins` only of a lone run."""

    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    margins: list[float] = field(default_factory=list)
    finish: FinishReason = FinishReason.NONE


class Collector:
    """Adds up the updates of an engine by request."""

    def __init__(self) -> None:
        self.sequences: dict[int, list[Sequence]] = {}
        self.ended: dict[int, FinishReason] = {}

    def expect(self, request: Request) -> None:
        self.sequences[request.key] = [Sequence() for _ in range(request.params.n)]

    def take(self, updates: list[SequenceUpdate | RequestEnded]) -> None:
        for update in updates:
            assert update.key not in self.ended, "news of a request that had ended"
            if isinstance(update, RequestEnded):
                self.ended[update.key] = update.reason
                continue
            sequence = self.sequences[update.key][update.index]
            assert sequence.finish is FinishReason.NONE, "news of a sequence that had finished"
            sequence.token_ids += update.token_ids
            sequence.logprobs += update.logprobs
            sequence.finish = update.finish


def run_alone(model: Model, request: Request) -> list[Sequence]:
    """Tokens, logprobs, margins and ends of a request that has an engine for itself."""
    engine = make_engine(model, record_margins=True)
    collector = Collector()
    collector.expect(request)
    engine.add(request)
    while engine.has_work:
        updates = engine.step()
        collector.take(updates)
        for update, margin in zip(updates, engine.runner.sampler.margins, strict=True):
            assert isinstance(update, SequenceUpdate)
            collector.sequences[update.key][update.index].margins.append(margin)
    engine.check_integrity()
    return collector.sequences[request.key]
