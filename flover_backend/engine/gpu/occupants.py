"""What the host knows of each row without asking the device: parameters, penalty slot, how much sampling asks for."""

from __future__ import annotations

from flover_backend.engine.penalties import uses_penalties
from flover_backend.request import SamplingParams

NO_SLOT = -1


class Occupants:
    """Who sits in each of `max_rows` rows."""

    def __init__(self, max_rows: int) -> None:
        self.params: list[SamplingParams | None] = [None] * max_rows
        """None: a dead row."""
        self.penalty_slots = [NO_SLOT] * max_rows
        self.num_choosy = 0
        """Rows that need more than the largest logit."""
        self.num_logprobs = 0
        """Rows that ask for logprobs."""
        self._free_slots = list(reversed(range(max_rows)))

    def join(self, row: int, params: SamplingParams) -> None:
        """A row starts; it may have had another occupant."""
        self.leave(row)
        self._set(row, params, self._free_slots.pop() if uses_penalties(params) else NO_SLOT)

    def leave(self, row: int) -> None:
        """A row is dead now, if it was not already."""
        params = self.params[row]
        if params is None:
            return
        self.num_choosy -= is_choosy(params)
        self.num_logprobs -= wants_logprobs(params)
        if self.penalty_slots[row] != NO_SLOT:
            self._free_slots.append(self.penalty_slots[row])
        self.params[row], self.penalty_slots[row] = None, NO_SLOT

    def move(self, pairs: list[tuple[int, int]]) -> None:
        """(source, destination), no row on both sides; the sources are dead then."""
        for source, destination in pairs:
            self.leave(destination)
            self.params[destination], self.params[source] = self.params[source], None
            self.penalty_slots[destination], self.penalty_slots[source] = self.penalty_slots[source], NO_SLOT

    def _set(self, row: int, params: SamplingParams, slot: int) -> None:
        self.params[row], self.penalty_slots[row] = params, slot
        self.num_choosy += is_choosy(params)
        self.num_logprobs += wants_logprobs(params)


def is_choosy(params: SamplingParams) -> bool:
    """Whether a row's token is anything but the one with the largest logit."""
    return params.temperature > 0 or params.min_tokens > 0 or bool(params.logit_bias) or uses_penalties(params)


def wants_logprobs(params: SamplingParams) -> bool:
    """Whether a row's tokens come with logprobs."""
    return params.logprobs >= 0 or params.cumulative_logprob
