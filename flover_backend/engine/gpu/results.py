"""Sampled tokens on their way to the host: copied behind each iteration, read when the host asks for them.

Knows plans only for the order in which they sample.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from flover_backend.engine.sampler import Logprobs
from flover_backend.scheduler.plan import StepResult


@dataclass(frozen=True, slots=True)
class _Pending:
    step: int
    tokens: torch.Tensor
    places: Sequence[int]
    logprobs: Logprobs | None
    done: torch.cuda.Event | None


class Results:
    """Holds up to `slots` results that are on their way; oldest first."""

    def __init__(self, max_rows: int, slots: int, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._pinned = torch.zeros((slots, max_rows), dtype=torch.int32, pin_memory=self._on_gpu)
        self._events = [torch.cuda.Event() for _ in range(slots)] if self._on_gpu else [None] * slots
        self._nothing = torch.zeros(0, dtype=torch.int32, device=device)
        self._next = 0
        self._pending: deque[_Pending] = deque()

    def __len__(self) -> int:
        return len(self._pending)

    def push(self, step: int, tokens: torch.Tensor, places: Sequence[int], logprobs: Logprobs | None = None) -> None:
        """Start the copy of `tokens` [S] int32 (S may be 0); `places` of them, in this order, are the step's result."""
        slot, self._next = self._next, (self._next + 1) % len(self._pinned)
        pinned, event = self._pinned[slot, : len(tokens)], self._events[slot]
        pinned.copy_(tokens, non_blocking=True)
        copied = None if logprobs is None else logprobs.start_copy()
        if event is not None:
            event.record()
        self._pending.append(_Pending(step, pinned, places, copied, event))

    def push_nothing(self, step: int) -> None:
        """A step that sampled nothing; it still has an end to wait for."""
        self.push(step, self._nothing, ())

    @property
    def all_done(self) -> bool:
        """No result is on its way any more. Does not wait."""
        newest = self._pending[-1].done if self._pending else None
        return newest is None or newest.query()

    def pop(self) -> StepResult:
        """The oldest result; waits for its copy alone."""
        pending = self._pending.popleft()
        if pending.done is not None:
            pending.done.synchronize()
        tokens = pending.tokens.tolist()
        logprobs = {} if pending.logprobs is None else pending.logprobs.to_host()
        return StepResult(pending.step, [tokens[place] for place in pending.places], logprobs)
