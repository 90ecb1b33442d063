"""The plan of one iteration and its result: the only things that the scheduler and the runner both know.

A plan is complete and deterministic: the same plans applied in sequence give the same state on every rank
(the NBPP idea of EnergonAI, section 4 of its paper: commands are numbered and applied in one total order).
It never carries the token a decoding row feeds in: row state (last token, position, block-table row, sampling
parameters, counters) lives with the runner, so that with pipeline depth 1 a plan can be made before the previous
iteration's tokens are known.

Order in which a runner applies a plan:
1. `block_moves`   (compaction; all reads of a move happen before any write of a later one)
2. `row_moves`     (reorder: whole row state, block-table row included; then the source row is dead)
3. `dead_rows`     rows that became free, sources of `row_moves` among them, their destinations never: block-table
                   row := 0s, position := 0. A row that a join takes in the same plan is here too
4. `joins`         row state of rows that start
5. `table_updates` block-table entries
6. forward over the chunks (prefill) and `decode_rows`, sampling for rows that sample
7. `block_copies`  (a fork's partly filled prompt block, after it was written)
8. `forks`         child rows take their first token from the parent row's logits, each with its own seed
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flover_backend.request import SamplingParams

NULL_BLOCK = 0
"""Block 0 belongs to nobody: dead rows that are computed for nothing write there. Block ids of requests start at 1."""


@dataclass(frozen=True, slots=True)
class Join:
    """A row starts (or starts again after preemption).

    `output_ids` are tokens sampled before a preemption; prefill covers prompt and outputs.
    `seed` is already mixed with the sample's index in the request (index 0: the request's own).
    """

    row: int
    prompt_ids: list[int]
    output_ids: list[int]
    params: SamplingParams
    seed: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of one row's prompt: `token_ids` sit at positions `start .. start + len(token_ids) - 1`.

    `samples`: this chunk ends the prompt, so the row's next token is sampled from its last position.
    """

    row: int
    start: int
    token_ids: list[int]
    samples: bool


@dataclass(frozen=True, slots=True)
class Fork:
    """`child_rows` (joined in the same plan) take over `parent_row`'s prompt: n > 1 after one prefill."""

    parent_row: int
    child_rows: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TableUpdate:
    """Entries `first .. first + len(blocks) - 1` of a row's block-table row."""

    row: int
    first: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """One iteration. `step` counts from 0 without gaps. Empty (`is_empty`) when there is nothing to compute.

    An empty plan holds nothing else either: rows that became free are told by the next plan that computes.
    """

    step: int
    num_rows: int
    """Rows 0 .. num_rows-1 are the batch; in `rows` and `compact` each of them is live, in `none` some may be dead."""
    block_moves: list[tuple[int, int]] = field(default_factory=list)
    """(source, destination) block ids."""
    row_moves: list[tuple[int, int]] = field(default_factory=list)
    """(source, destination) rows."""
    dead_rows: list[int] = field(default_factory=list)
    joins: list[Join] = field(default_factory=list)
    table_updates: list[TableUpdate] = field(default_factory=list)
    chunks: list[Chunk] = field(default_factory=list)
    decode_rows: list[int] = field(default_factory=list)
    """Ascending. Live rows that advance by one token."""
    idle_rows: list[int] = field(default_factory=list)
    """Rows below num_rows computed for nothing (reorder mode `none` only)."""
    block_copies: list[tuple[int, int]] = field(default_factory=list)
    forks: list[Fork] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        """True when no row computes anything."""
        return not self.chunks and not self.decode_rows

    def sampled_rows(self) -> list[int]:
        """Rows that get a token, in the order of `StepResult`'s lists: decode rows, sampling chunks, forked rows."""
        rows = list(self.decode_rows)
        rows += [chunk.row for chunk in self.chunks if chunk.samples]
        rows += [row for fork in self.forks for row in fork.child_rows]
        return rows


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """Logprobs of one sampled token, of the raw distribution (before penalties, bias and temperature)."""

    logprob: float
    rank: int
    """1 is the most likely."""
    top: list[tuple[int, float]]
    """The `SamplingParams.logprobs` most likely (token id, logprob), most likely first; rank is 1 + index."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an iteration sampled; entry i belongs to `Plan.sampled_rows()[i]` of the plan numbered `step`."""

    step: int
    token_ids: list[int]
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    """Index into `token_ids` -> logprobs, for rows whose params ask (logprobs >= 0 or cumulative_logprob)."""
