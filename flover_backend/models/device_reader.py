"""From bytes of files to tensors on a device, by several threads at once, through a few staging buffers.

Each thread reads a piece of a file into its own pinned buffer, lets the device copy it from there, and has the device
convert it where the file holds another dtype. So the host never holds more than the buffers, and reading is as fast
as the page cache or the disk and the bus. Knows no tensor names.
"""

from __future__ import annotations

import os
import queue
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from flover_backend.errors import ConfigError

THREADS = 12
PIECE = 8 << 20
"""Bytes of a staging buffer; a multiple of every item size."""


class DeviceReader:
    """Owns the threads, their buffers and the open files. Use: `read` any number of times, `wait`, `close`."""

    def __init__(self, device: torch.device, threads: int = THREADS, piece: int = PIECE) -> None:
        self._piece = piece
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="weights")
        self._stages: queue.SimpleQueue[_Stage] = queue.SimpleQueue()
        for _ in range(threads):
            self._stages.put(_Stage(device, piece))
        self._files: dict[Path, int] = {}
        self._jobs: list[tuple[Future[None], int]] = []

    def read(self, path: Path, offset: int, stored: torch.dtype, out: torch.Tensor) -> None:
        """Begin to fill `out` (contiguous, any shape) with its number of items of dtype `stored` from `offset` on."""
        assert out.is_contiguous() and self._piece % stored.itemsize == 0
        if path not in self._files:
            self._files[path] = os.open(path, os.O_RDONLY)
        flat, items = out.view(-1), self._piece // stored.itemsize
        for first in range(0, flat.numel(), items):
            part = flat[first : first + items]
            place = offset + first * stored.itemsize
            job = self._pool.submit(self._read_piece, path, place, stored, part)
            self._jobs.append((job, part.numel() * stored.itemsize))

    def wait(self, progress: Callable[[float], None]) -> None:
        """Until every tensor is filled. Tells the share of the bytes; raises `ConfigError` where a read failed."""
        total, done = sum(size for _, size in self._jobs), 0
        for job, size in self._jobs:
            job.result()
            done += size
            progress(done / total)
        self._jobs.clear()

    def close(self) -> None:
        """End the threads, after what they are at; no tensor is written after this."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        for file in self._files.values():
            os.close(file)
        self._files.clear()
        while not self._stages.empty():
            self._stages.get()

    def _read_piece(self, path: Path, offset: int, stored: torch.dtype, out: torch.Tensor) -> None:
        stage = self._stages.get()
        try:
            stage.fill(self._files[path], path, offset, out.numel() * stored.itemsize)
            stage.deliver(stored, out)
        finally:
            self._stages.put(stage)


class _Stage:
    """One staging buffer, and the stream on which the device empties it."""

    def __init__(self, device: torch.device, size: int) -> None:
        self._on_gpu = device.type == "cuda"
        self._buffer = torch.empty(size, dtype=torch.uint8, pin_memory=self._on_gpu)
        self._bytes = memoryview(self._buffer.numpy())  # type: ignore[arg-type]
        self._scratch: torch.Tensor | None = None
        """On the device, where it converts."""
        self._stream = torch.cuda.Stream(device) if self._on_gpu else None  # type: ignore[no-untyped-call]
        if self._stream is not None:
            # NOTE: the destinations' memory may have been used by earlier work of the loading thread's stream.
            self._stream.wait_stream(torch.cuda.current_stream(device))

    def fill(self, file: int, path: Path, offset: int, size: int) -> None:
        done = 0
        while done < size:
            count = os.preadv(file, [self._bytes[done:size]], offset + done)
            if count == 0:
                raise ConfigError(f"{path}: truncated, or not a safetensors file (it ends before byte {offset + size})")
            done += count

    @torch.inference_mode()  # of this thread: the caller's own mode, and so the tensor's, may be that too
    def deliver(self, stored: torch.dtype, out: torch.Tensor) -> None:
        size = out.numel() * stored.itemsize
        if self._stream is None:
            out.copy_(self._buffer[:size].view(stored))
            return
        with torch.cuda.stream(self._stream):
            if stored == out.dtype:
                out.copy_(self._buffer[:size].view(stored), non_blocking=True)
            else:
                if self._scratch is None:
                    self._scratch = torch.empty_like(self._buffer, device=out.device)
                self._scratch[:size].copy_(self._buffer[:size], non_blocking=True)
                out.copy_(self._scratch[:size].view(stored))
        self._stream.synchronize()
