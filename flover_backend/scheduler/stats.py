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
    """Of those, tokens after a stop string that the front found while the sequence ran on."""
    wasted_tokens: int = 0
    """Sampled tokens dropped because their sequence had ended meanwhile."""
    preemptions: int = 0
    joins: int = 0
    leaves: int = 0
    reorders: int = 0
    """Plans with at least one row or block move."""
    rows_moved: int = 0
    blocks_moved: int = 0

    def add_plan(self, stats: PlanStats) -> None:
        """Add what one plan holds; `leaves`, which also happen between plans, are kept up to date by the scheduler."""
        self.iterations += bool(stats.decode_tokens or stats.prefill_tokens)
        self.prefill_tokens += stats.prefill_tokens
        self.decode_tokens += stats.decode_tokens
        self.prompt_tokens += stats.prompt_tokens
        self.preemptions += stats.preemptions
        self.joins += stats.joins
        self.reorders += bool(stats.row_moves or stats.block_moves)
        self.rows_moved += stats.row_moves
        self.blocks_moved += stats.block_moves


@dataclass(frozen=True, slots=True)
class PlanStats:
    """What the latest plan holds."""

    step: int
    num_rows: int
    num_live: int
    decode_tokens: int
    prefill_tokens: int
    prompt_tokens: int
    """Whole prompts of requests whose first prefill ends here."""
    joins: int
    leaves: int
    """Sequences that left their row since the plan before."""
    row_moves: int
    block_moves: int
    preemptions: int
    started_keys: tuple[int, ...]
    """Requests admitted for the first time: their queue time ends here."""
