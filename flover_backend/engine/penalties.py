"""Token counts of the rows that use a penalty. Rows that use none take no memory and no time here.

A row that uses one holds a slot; moving the row moves the slot's number, never the counts.
"""

from __future__ import annotations

import torch

from flover_backend.kernels.sampling import penalize_
from flover_backend.request import SamplingParams


def uses_penalties(params: SamplingParams) -> bool:
    """Whether any of the three penalties differs from its neutral value."""
    return params.repetition_penalty != 1 or params.presence_penalty != 0 or params.frequency_penalty != 0


class PenaltyState:
    """Slots of counts, allocated on demand and never given back; their number doubles when none is free."""

    def __init__(self, vocab_size: int, device: torch.device) -> None:
        self.counts = torch.zeros((0, vocab_size), dtype=torch.int32, device=device)
        """[num_slots, vocab_size]: occurrences in the output."""
        self.seen = torch.zeros((0, vocab_size), dtype=torch.bool, device=device)
        """[num_slots, vocab_size]: in the prompt or the output."""
        self._free: list[int] = []

    def take(self, prompt_ids: list[int], output_ids: list[int]) -> int:
        """A slot that has counted a prompt and an output."""
        if not self._free:
            self._grow()
        slot = self._free.pop()
        device = self.counts.device
        outputs = torch.tensor(output_ids, dtype=torch.int64, device=device)
        self.counts[slot] = torch.bincount(outputs, minlength=self.counts.shape[1])
        self.seen[slot] = self.counts[slot] > 0
        self.seen[slot, torch.tensor(prompt_ids, dtype=torch.int64, device=device)] = True
        return slot

    def release(self, slot: int) -> None:
        """Give a slot back."""
        self._free.append(slot)

    def count(self, slots: torch.Tensor, token_ids: torch.Tensor) -> None:
        """One new token for each of some different slots; both [N] int64."""
        self.counts[slots, token_ids] += 1
        self.seen[slots, token_ids] = True

    def apply_(self, logits: torch.Tensor, places: torch.Tensor, slots: torch.Tensor, factors: torch.Tensor) -> None:
        """Penalize the rows `places` [N] of logits in place; factors [3, N]: repetition, presence, frequency."""
        penalize_(logits, places, self.seen[slots], self.counts[slots], factors)

    def _grow(self) -> None:
        num_slots = self.counts.shape[0]
        added = max(num_slots, 4)
        self.counts = torch.cat((self.counts, self.counts.new_zeros((added, self.counts.shape[1]))))
        self.seen = torch.cat((self.seen, self.seen.new_zeros((added, self.seen.shape[1]))))
        self._free.extend(reversed(range(num_slots, num_slots + added)))
