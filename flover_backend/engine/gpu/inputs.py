"""What the host tells the device of a mixed iteration: its tokens, the work of prefill attention, the sampled rows.

Staged in pinned memory and uploaded in one copy each; the device tensors never move, so graphs may read them.
Knows plans and their packing; nothing of models or row state.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from flover_backend.kernels.gpu.prefill_attention import BLOCK_M, prefill_items
from flover_backend.kernels.prepare import FROM_STATE
from flover_backend.scheduler.plan import Plan


class Upload:
    """One int32 tensor on the device and a ring of pinned copies of it on the host.

    A pinned copy is written again `slots` uploads later; the caller makes sure that the device has read it by then.
    """

    def __init__(self, size: int, slots: int, device: torch.device) -> None:
        self.tensor = torch.zeros(size, dtype=torch.int32, device=device)
        pinned = device.type == "cuda"
        self._staging = [torch.zeros(size, dtype=torch.int32, pin_memory=pinned) for _ in range(slots)]
        self._arrays = [staging.numpy() for staging in self._staging]
        self._next = 0

    def array(self) -> npt.NDArray[np.int32]:
        """[size] int32: fill this, then `send`."""
        return self._arrays[self._next]

    def send(self, size: int | None = None) -> torch.Tensor:
        """Copy the first `size` entries to the device, in stream order; returns the device tensor."""
        self.tensor[:size].copy_(self._staging[self._next][:size], non_blocking=True)
        self._next = (self._next + 1) % len(self._staging)
        return self.tensor


class TokenInputs:
    """Tokens of one iteration of at most `max_tokens`: decoding rows, rows computed for nothing, chunks, padding."""

    def __init__(self, max_tokens: int, max_chunks: int, dead_row: int, slots: int, device: torch.device) -> None:
        self._dead_row, self.max_tokens, self._max_chunks = dead_row, max_tokens, max_chunks
        self.max_items = self.max_items_of(max_tokens)
        self._upload = Upload(4 + 4 * self.max_items + 3 * max_tokens, slots, device)
        head, items, given = self._upload.tensor.split([4, 4 * self.max_items, 3 * max_tokens])
        self.num_items = head[:1]
        """[1] int32"""
        self.items = items.view(self.max_items, 4)
        """[max_items, 4] int32, see `prefill_items`"""
        self.given = given.view(3, max_tokens)
        """[3, max_tokens] int32: row, id or `FROM_STATE`, position"""

    def max_items_of(self, num_tokens: int) -> int:
        """Most items that `num_tokens` tokens can make."""
        return num_tokens // BLOCK_M + min(num_tokens, self._max_chunks)

    def fill(self, plan: Plan, num_tokens: int) -> None:
        """Upload `plan`'s tokens, padded to `num_tokens`."""
        array = self._upload.array()
        single = plan.decode_rows + plan.idle_rows
        items = prefill_items(_places(plan, len(single)))
        array[0] = len(items)
        array[4 : 4 + items.size] = items.ravel()
        rows, ids, positions = array[4 + 4 * self.max_items :].reshape(3, self.max_tokens)[:, :num_tokens]
        end = len(single)
        rows[:end], ids[:end], positions[:end] = single, FROM_STATE, 0
        for chunk in plan.chunks:
            begin, end = end, end + len(chunk.token_ids)
            rows[begin:end], ids[begin:end] = chunk.row, chunk.token_ids
            positions[begin:end] = np.arange(chunk.start, chunk.start + end - begin)
        rows[end:], ids[end:], positions[end:] = self._dead_row, FROM_STATE, 0
        self._upload.send()


class SampleInputs:
    """Which tokens' hidden states are sampled from, and for which rows."""

    def __init__(self, max_rows: int, dead_row: int, slots: int, device: torch.device) -> None:
        self._dead_row = dead_row
        self._upload = Upload(2 * max_rows, slots, device)
        self.places, self.rows = self._upload.tensor.view(2, max_rows).unbind(0)

    def fill(self, plan: Plan) -> None:
        """Upload the places and rows of `plan.sampled_rows()`, padded with the dead row."""
        places, rows = self._upload.array().reshape(2, -1)
        sampled_rows = plan.sampled_rows()
        count = len(sampled_rows)
        places[:count], rows[:count] = _sampled_places(plan), sampled_rows
        places[count:], rows[count:] = 0, self._dead_row
        self._upload.send()


def _places(plan: Plan, begin: int) -> list[tuple[int, int, int, int]]:
    """(first token, number of tokens, row, start) of each chunk."""
    places = []
    for chunk in plan.chunks:
        places.append((begin, len(chunk.token_ids), chunk.row, chunk.start))
        begin += len(chunk.token_ids)
    return places


def _sampled_places(plan: Plan) -> list[int]:
    begin = len(plan.decode_rows) + len(plan.idle_rows)
    last = {row: first + length - 1 for first, length, row, _ in _places(plan, begin)}
    places = list(range(len(plan.decode_rows)))
    places += [last[chunk.row] for chunk in plan.chunks if chunk.samples]
    return places + [last[fork.parent_row] for fork in plan.forks for _ in fork.child_rows]
