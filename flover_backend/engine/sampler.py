"""Chooses the next token of every sampled row in one batched pass, each row by its own parameters.

Rows are grouped by what they ask for: a batch of greedy rows is one argmax, and only rows that use a parameter are
touched for it. Order for a row: logprobs of the raw logits; penalties; logit_bias; mask of the tokens that would end
it before min_tokens; then argmax (temperature 0) or temperature, top_k, top_p, min_p and a draw by (seed, position).
Knows row state and logits; nothing of prompts, blocks or plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from flover_backend.engine.penalties import uses_penalties
from flover_backend.engine.rowstate import RowState
from flover_backend.kernels import sampling
from flover_backend.kernels.margins import decision_margin
from flover_backend.request import SamplingParams
from flover_backend.scheduler.plan import TokenLogprobs


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Logprobs on the device of M of the sampled rows: `entries` are their places among the sampled rows."""

    entries: list[int]
    num_top: list[int]
    chosen: torch.Tensor
    rank: torch.Tensor
    top_values: torch.Tensor
    top_ids: torch.Tensor

    def start_copy(self) -> Logprobs:
        """The same on the host once the device gets there: ask `to_host` of it only behind an event."""
        tensors = (self.chosen, self.rank, self.top_values, self.top_ids)
        copies = [torch.empty(t.shape, dtype=t.dtype, pin_memory=t.is_cuda) for t in tensors]
        for copy, tensor in zip(copies, tensors, strict=True):
            copy.copy_(tensor, non_blocking=True)
        return Logprobs(self.entries, self.num_top, *copies)

    def to_host(self) -> dict[int, TokenLogprobs]:
        """By entry; waits for the device."""
        columns = (self.chosen.tolist(), self.rank.tolist(), self.top_ids.tolist(), self.top_values.tolist())
        return {
            entry: TokenLogprobs(chosen, rank, list(zip(ids[:num_top], values[:num_top], strict=True)))
            for entry, num_top, chosen, rank, ids, values in zip(self.entries, self.num_top, *columns, strict=True)
        }


@dataclass(frozen=True, slots=True)
class Sampled:
    """`token_ids` [N] int64 on the device, entry i for the i-th sampled row."""

    token_ids: torch.Tensor
    logprobs: Logprobs | None


class Grouping:
    """What each of N sampled rows asks for, as index tensors. Valid as long as the rows keep their occupants.

    Indexes are places among the sampled rows; `rows` are the rows themselves.
    """

    def __init__(self, state: RowState, rows: list[int], eos_token_ids: tuple[int, ...]) -> None:
        self._device = state.device
        self.row_list = rows
        self.rows = self._index(rows)
        self.params = [_live(state, row) for row in rows]
        self.seeds = state.seed[self.rows]
        self._group_draws(state)
        self._group_penalties(state)
        self._group_bias()
        self._group_masks(state, eos_token_ids)
        self.logprob_entries = [i for i, p in enumerate(self.params) if p.logprobs >= 0 or p.cumulative_logprob]

    def _index(self, values: list[int]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self._device)

    def _group_draws(self, state: RowState) -> None:
        """`drawn`: rows with a temperature, those with a filter last, so that these are a slice of the weights."""
        drawn = [i for i, p in enumerate(self.params) if p.temperature > 0]
        drawn.sort(key=lambda i: _filters(self.params[i]))
        self.drawn = self._index(drawn)
        self.num_drawn = len(drawn)
        self.num_unfiltered = sum(not _filters(self.params[i]) for i in drawn)
        self.all_drawn_in_order = drawn == list(range(len(self.row_list)))
        self.temperature = state.temperature[self.rows[self.drawn]]
        filtered = self.rows[self.drawn[self.num_unfiltered :]]
        self.top_k, self.top_p, self.min_p = state.top_k[filtered], state.top_p[filtered], state.min_p[filtered]

    def _group_penalties(self, state: RowState) -> None:
        penalized = [i for i, p in enumerate(self.params) if uses_penalties(p)]
        self.num_penalized = len(penalized)
        self.penalized = self._index(penalized)
        self.penalty_slots = self._index([state.penalty_slots[self.row_list[i]] for i in penalized])
        self.penalty_factors = state.penalty_factors[:, self.rows[self.penalized]]

    def _group_bias(self) -> None:
        triples = [(i, token, bias) for i, p in enumerate(self.params) for token, bias in p.logit_bias.items()]
        self.num_biases = len(triples)
        self.bias_at = (self._index([i for i, _, _ in triples]), self._index([token for _, token, _ in triples]))
        self.bias = torch.tensor([bias for _, _, bias in triples], dtype=torch.float32, device=self._device)

    def _group_masks(self, state: RowState, eos_token_ids: tuple[int, ...]) -> None:
        pairs = [
            (i, token)
            for i, p in enumerate(self.params)
            if p.min_tokens > 0
            for token in dict.fromkeys((*p.stop_token_ids, *(() if p.ignore_eos else eos_token_ids)))
        ]
        self.num_masks = len(pairs)
        self.mask_at = (self._index([i for i, _ in pairs]), self._index([token for _, token in pairs]))
        self.masked_until = state.masked_until[self.rows[self.mask_at[0]]]


class Sampler:
    """Owns the grouping of the rows last sampled; makes another only when the rows or their occupants change."""

    def __init__(self, state: RowState, eos_token_ids: tuple[int, ...], record_margins: bool = False) -> None:
        """`record_margins`: keep in `margins` how near each decision was to another one; slow, for tests."""
        self._state = state
        self._eos_token_ids = eos_token_ids
        self._record_margins = record_margins
        self._grouping: Grouping | None = None
        self._version = -1
        self.margins: list[float] = []

    def sample(self, logits: torch.Tensor, rows: list[int]) -> Sampled:
        """One token for each of `rows`, from logits [N, vocab_size] float32, which are consumed; advances the rows."""
        group = self._group(rows)
        raw = logits[group.logprob_entries] if group.logprob_entries else None
        lengths = self._state.num_tokens[group.rows]
        self._process_(logits, group, lengths)
        if self._record_margins:
            self.margins = _margins(logits, group, lengths)
        token_ids = _choose(logits, group, lengths)
        self._state.advance(rows, group.rows, token_ids)
        if group.num_penalized:
            self._state.penalties.count(group.penalty_slots, token_ids[group.penalized])
        return Sampled(token_ids, None if raw is None else _logprobs(raw, token_ids, group))

    def _group(self, rows: list[int]) -> Grouping:
        group = self._grouping
        if group is None or self._version != self._state.version or group.row_list != rows:
            group = self._grouping = Grouping(self._state, rows, self._eos_token_ids)
            self._version = self._state.version
        return group

    def _process_(self, logits: torch.Tensor, group: Grouping, lengths: torch.Tensor) -> None:
        """Penalties, bias and masks, in place."""
        if group.num_penalized:
            self._state.penalties.apply_(logits, group.penalized, group.penalty_slots, group.penalty_factors)
        if group.num_biases:
            logits[group.bias_at] += group.bias
        if group.num_masks:
            masked = lengths[group.mask_at[0]] < group.masked_until
            logits[group.mask_at] = torch.where(masked, sampling.MASKED_LOGIT, logits[group.mask_at])


def _live(state: RowState, row: int) -> SamplingParams:
    params = state.params[row]
    if params is None:
        raise AssertionError(f"row {row} is sampled but nobody joined it")
    return params


def _filters(params: SamplingParams) -> bool:
    return params.top_k > 0 or params.top_p < 1 or params.min_p > 0


def _choose(logits: torch.Tensor, group: Grouping, lengths: torch.Tensor) -> torch.Tensor:
    if not group.num_drawn:
        return logits.argmax(-1)
    if group.all_drawn_in_order:
        return _draw(logits, group, lengths)
    drawn = _draw(logits[group.drawn], group, lengths[group.drawn])
    if group.num_drawn == logits.shape[0]:
        return torch.empty_like(drawn).index_copy_(0, group.drawn, drawn)
    return logits.argmax(-1).index_copy_(0, group.drawn, drawn)


def _draw(logits: torch.Tensor, group: Grouping, lengths: torch.Tensor) -> torch.Tensor:
    """Logits [M, V] of the drawn rows, consumed; the position of a new token is the length before it."""
    weights = sampling.temper_(logits, group.temperature)
    if group.num_unfiltered < group.num_drawn:
        sampling.filter_(weights[group.num_unfiltered :], group.top_k, group.top_p, group.min_p)
    return sampling.inverse_cdf(weights, sampling.uniform(group.seeds[group.drawn], lengths))


def _logprobs(raw: torch.Tensor, token_ids: torch.Tensor, group: Grouping) -> Logprobs:
    entries = group.logprob_entries
    num_top = [max(group.params[i].logprobs, 0) for i in entries]
    chosen, rank, values, ids = sampling.raw_logprobs(raw, token_ids[entries], max(num_top))
    return Logprobs(entries, num_top, chosen, rank, values, ids)


def _margins(logits: torch.Tensor, group: Grouping, lengths: torch.Tensor) -> list[float]:
    points = sampling.uniform(group.seeds, lengths).tolist()
    return [decision_margin(*row) for row in zip(logits, group.params, points, strict=True)]
