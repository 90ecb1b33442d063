"""An EngineCore without tensors: every decoding row gets the next token of a sequence that its prompt determines.

`load` is the factory that tests name in place of the real engine; `steering/fake.json` in the model directory steers
it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from flover_backend.channel import EngineInfo, Iteration
from flover_backend.config import ModelJson
from flover_backend.engine.interface import EngineGauges, RequestEnded, SequenceUpdate, StepStats
from flover_backend.errors import ConfigError, DoesNotFit, QueueFull
from flover_backend.request import FinishReason, Request
from flover_backend.scheduler.plan import TokenLogprobs

VOCAB_SIZE = 1000
BLOCK_SIZE = 16
NUM_BLOCKS = 64
POISON = [667]


class Steering(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    load_s: float = 0.0
    config_error: str = ""
    load_error: str = ""
    load_exit: int | None = None
    crash_at_step: int = -1
    step_s: float = 0.0
    allowed_s: float = 3.0
    max_rows: int = 8
    max_queued_requests: int = 16
    max_queued_tokens: int = 10_000
    preempt_at_token: int = -1
    """Once, when the newest running request has so many tokens, it is thrown out."""
    leak: bool = False
    poison_hangs: bool = False
    """A step that computes POISON hangs; else it raises."""


def token(prompt_ids: list[int], index: int, position: int) -> int:
    """The `position`-th output token of sequence `index`."""
    return (sum(prompt_ids) + 7 * index + position) % VOCAB_SIZE


class _Row:
    def __init__(self, request: Request) -> None:
        self.request = request
        self.done = [0] * request.params.n
        self.ended = [False] * request.params.n
        self.finish_at: dict[int, int] = {}


class FakeCore:
    def __init__(self, steering: Steering) -> None:
        self._steering = steering
        self._waiting: dict[int, _Row] = {}
        self._running: dict[int, _Row] = {}
        self._started: dict[int, None] = {}
        self._cancelled: dict[int, None] = {}
        self._step = 0
        self._preempted = False
        self._most_used = 0
        self.last_stats: StepStats | None = None
        self.plan_due = 0.0
        self.allowed_seconds = steering.allowed_s

    def add(self, request: Request, *, again: bool = False) -> None:
        if len(request.prompt_ids) > NUM_BLOCKS * BLOCK_SIZE:
            raise DoesNotFit(f"prompt of {len(request.prompt_ids)} tokens; allowed are {NUM_BLOCKS * BLOCK_SIZE}")
        if request.prompt_ids == [666]:
            raise RuntimeError("a bug in add")
        if len(self._waiting) >= self._steering.max_queued_requests and not again:
            raise QueueFull(f"{len(self._waiting)} requests wait; allowed are {self._steering.max_queued_requests}")
        self._waiting[request.key] = _Row(request)

    def cancel(self, key: int) -> None:
        if key in self._waiting or key in self._running:
            self._cancelled[key] = None

    def finish(self, key: int, index: int, num_tokens: int) -> None:
        if key in self._running:
            self._running[key].finish_at[index] = num_tokens

    def check_integrity(self) -> None:
        assert not self._steering.leak, "1 block leaked"

    @property
    def unanswered_keys(self) -> tuple[int, ...]:
        return tuple(key for key, row in self._running.items() if not row.done[0])

    @property
    def has_work(self) -> bool:
        return bool(self._waiting or self._running)

    @property
    def gauges(self) -> EngineGauges:
        used = sum(-(-len(row.request.prompt_ids) // BLOCK_SIZE) for row in self._running.values())
        tokens = sum(len(row.request.prompt_ids) for row in self._waiting.values())
        return EngineGauges(
            len(self._running), len(self._waiting), tokens, used, NUM_BLOCKS - used, self._most_used, 4096
        )

    def step(self) -> list[SequenceUpdate | RequestEnded]:
        started_at = time.monotonic()
        if self._step == self._steering.crash_at_step:
            raise RuntimeError("the fake core crashes")
        updates: list[SequenceUpdate | RequestEnded] = self._cancel()
        preempted = self._preempt()
        joins = self._join()
        prefill = sum(len(row.request.prompt_ids) + row.done[0] for row in joins)
        decodes = sum(ended.count(False) for ended in (r.ended for r in self._running.values()))
        new_keys = [row.request.key for row in joins if row.request.key not in self._started]
        self._started |= dict.fromkeys(new_keys)
        used = self.gauges.used_blocks
        self._most_used = max(self._most_used, used)
        if any(row.request.prompt_ids == POISON for row in self._running.values()):
            if self._steering.poison_hangs:
                time.sleep(3600)
            raise RuntimeError("a bug in a kernel")
        for row in self._running.values():
            updates += self._advance(row)
        leaves = [key for key, row in self._running.items() if all(row.ended)]
        for key in leaves:
            del self._running[key]
        if self._steering.step_s:
            time.sleep(self._steering.step_s)
        iteration = Iteration(
            step=self._step,
            time=started_at,
            seconds=time.monotonic() - started_at,
            num_rows=decodes,
            num_live=decodes,
            decode_tokens=decodes,
            prefill_tokens=prefill,
            joins=len(joins),
            leaves=len(leaves),
            row_moves=0,
            block_moves=0,
            num_waiting=len(self._waiting),
            free_blocks=NUM_BLOCKS - used,
        )
        self.last_stats = StepStats(iteration, tuple(new_keys), preempted) if decodes else None
        self._step += 1
        return updates

    def _cancel(self) -> list[SequenceUpdate | RequestEnded]:
        ended: list[SequenceUpdate | RequestEnded] = []
        for key in self._cancelled:
            if self._waiting.pop(key, None) or self._running.pop(key, None):
                ended.append(RequestEnded(key, FinishReason.CANCELLED, "the client is gone"))
        self._cancelled = {}
        return ended

    def _preempt(self) -> int:
        key = next(reversed(self._running), None)
        if key is None or self._running[key].done[0] != self._steering.preempt_at_token or self._preempted:
            return 0
        self._preempted = True
        self._waiting = {key: self._running.pop(key), **self._waiting}
        return 1

    def _join(self) -> list[_Row]:
        joined = []
        while self._waiting and len(self._running) < self._steering.max_rows:
            key = next(iter(self._waiting))
            self._running[key] = self._waiting.pop(key)
            joined.append(self._running[key])
        return joined

    def _advance(self, row: _Row) -> list[SequenceUpdate]:
        updates = []
        for index in range(row.request.params.n):
            if not row.ended[index]:
                updates.append(self._next_token(row, index))
        return updates

    def _next_token(self, row: _Row, index: int) -> SequenceUpdate:
        key, params = row.request.key, row.request.params
        if row.done[index] >= row.finish_at.get(index, 1 << 40):
            row.ended[index] = True
            return SequenceUpdate(key, index, (), (), FinishReason.STOP)
        token_id = token(row.request.prompt_ids, index, row.done[index])
        row.done[index] += 1
        stops = token_id in params.stop_token_ids
        row.ended[index] = stops or row.done[index] == params.max_tokens
        finish = FinishReason.STOP if stops else FinishReason.LENGTH if row.ended[index] else FinishReason.NONE
        logprobs = (TokenLogprobs(-0.5, 1, [(token_id, -0.5)]),) if params.logprobs >= 0 else ()
        return SequenceUpdate(key, index, (token_id,), logprobs, finish)


def load(config: ModelJson, model_dir: Path, progress: Callable[[str, float], None]) -> tuple[FakeCore, EngineInfo]:
    """The factory."""
    path = model_dir / "steering" / "fake.json"  # no file of the model's own: those may not change
    steering = msgspec.json.decode(path.read_bytes(), type=Steering) if path.exists() else Steering()
    progress("weights", 0.5)
    time.sleep(steering.load_s)
    if steering.load_exit is not None:
        import os

        os._exit(steering.load_exit)
    if steering.config_error:
        raise ConfigError(steering.config_error)
    if steering.load_error:
        raise RuntimeError(steering.load_error)
    progress("weights", 1.0)
    info = EngineInfo(
        front_number=0,
        model_dir=str(model_dir),
        vocab_size=VOCAB_SIZE,
        eos_token_ids=[2],
        max_model_len=1024,
        max_rows=steering.max_rows,
        block_size=BLOCK_SIZE,
        num_blocks=NUM_BLOCKS,
        max_tokens_limit=1024,
        max_tokens_default=16,
        max_prompt_bytes=16384,
        max_queued_requests=steering.max_queued_requests,
        max_queued_tokens=steering.max_queued_tokens,
        dtype="float32",
        device="cpu",
        reorder="rows",
        pid=0,
    )
    return FakeCore(steering), info
