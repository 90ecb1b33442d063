"""The reorder step on the device: rows and blocks that a plan moves, and what moving them took."""

from __future__ import annotations

from collections import deque

import numpy as np
import torch

from flover_backend.engine.gpu.inputs import Upload
from flover_backend.engine.gpu.rows import DeviceRows
from flover_backend.kernels.gpu.block_copy import LayerPointers, copy_blocks
from flover_backend.kv.buffer import KVBuffer
from flover_backend.scheduler.plan import Plan


class Mover:
    """Moves blocks of the KV buffer and rows of the row state; times the moves on the device's own clock."""

    def __init__(self, kv: KVBuffer, rows: DeviceRows, max_block_pairs: int, slots: int) -> None:
        """`max_block_pairs`: most blocks copied at a time; `slots`: plans in flight, and one more."""
        self._kv = kv
        self._rows = rows
        self._layers = LayerPointers([*kv.keys, *kv.values])
        self._upload = Upload(2 * max_block_pairs, 2 * slots, rows.device)
        self._on_gpu = rows.device.type == "cuda"
        self._running: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()
        self.bytes_moved = 0
        """By the latest plan."""

    def move(self, plan: Plan) -> None:
        """Steps 1 and 2 of a plan's order."""
        self.bytes_moved = len(plan.block_moves) * self._kv.bytes_per_block
        self.bytes_moved += len(plan.row_moves) * self._rows.bytes_per_row
        if not self.bytes_moved:
            return
        began = self._mark()
        self.copy_blocks(plan.block_moves)
        self._rows.move()
        ended = self._mark()
        if began is not None and ended is not None:
            self._running.append((began, ended))

    def copy_blocks(self, pairs: list[tuple[int, int]]) -> None:
        """(source, destination) block ids; no block is on both sides."""
        if not pairs:
            return
        self._upload.array()[: 2 * len(pairs)] = np.asarray(pairs, dtype=np.int32).ravel()
        uploaded = self._upload.send(2 * len(pairs))
        copy_blocks(self._layers, uploaded[: 2 * len(pairs)].view(-1, 2), len(pairs))

    def take_seconds(self) -> float:
        """Of the moves that have ended since the call before."""
        seconds = 0.0
        while self._running and self._running[0][1].query():
            began, ended = self._running.popleft()
            seconds += began.elapsed_time(ended) / 1e3
        return seconds

    def _mark(self) -> torch.cuda.Event | None:
        if not self._on_gpu:
            return None
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
