"""Numbers that the scheduler keeps for metrics: totals since its start, and one record per plan."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Counters:
    """Totals. They only grow."""

    iterations: int = 0
    """Plans that computed something."""
    prefill_tokens: int = 0
    """Tokens run by chunks, recomputation after preemption included."""
    decode_tokens: int = 0
    """Rows run by decode steps, wasted ones included."""
    prompt_tokens: int = 0
    """Prompt tokens of requests whose prefill was scheduled to its end; once a request, whatever its n."""
    generated_tokens: int = 0
    """Tokens handed out by `commit`."""
    retracted_tokens: int = 0
    """Of those, tokens after a stop string that the front found: delivered are generated - retracted."""
    wasted_tokens: int = 0
    """Sampled tokens dropped because their sequence had ended meanwhile."""
    preemptions: int = 0
    joins: int = 0
    leaves: int = 0
    reorders: int = 0
    """Plans with at least one row or block move."""
    rows_moved: int = 0
    blocks_moved: int = 0


@dataclass(frozen=True, slots=True)
class PlanStats:
    """What the latest plan holds."""

    step: int
    num_rows: int
    num_live: int
    decode_tokens: int
    prefill_tokens: int
    joins: int
    leaves: int
    """Sequences that left their row since the plan before."""
    row_moves: int
    block_moves: int
    preemptions: int
    started_keys: tuple[int, ...]
    """Requests admitted for the first time: their queue time ends here."""
