"""Writes random weights as a sharded safetensors checkpoint, so that reading one can be timed without a download."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

from flover_backend.models.load import build_from
from flover_backend.models.weights import INDEX

SHARD_BYTES = 4 << 30


class _Names:
    """Asked as `Weights` is; remembers names and shapes."""

    def __init__(self) -> None:
        self.shapes: dict[str, tuple[int, ...]] = {}

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        self.shapes[name] = shape
        return torch.empty(shape, device="meta")

    def take_stacked(self, names: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> torch.Tensor:
        return torch.cat([self.take(name, shape) for name, shape in zip(names, shapes, strict=True)])

    def finish(self, leftovers: tuple[str, ...] = ()) -> None:
        pass


def write_checkpoint(directory: Path, dtype: torch.dtype, device: torch.device, shard_bytes: int = SHARD_BYTES) -> int:
    """Beside `directory`'s config.json; returns the bytes of the tensors."""
    names, total = _Names(), 0
    weight_map: dict[str, str] = {}
    build_from(directory, names)
    for number, shard in enumerate(_shards(names.shapes, dtype, shard_bytes)):
        file = f"model-{number + 1:05}.safetensors"
        tensors = {name: _random(shape, dtype, device) for name, shape in shard.items()}
        save_file(tensors, directory / file)
        weight_map |= dict.fromkeys(shard, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    (directory / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map}))
    return total


def _shards(
    shapes: dict[str, tuple[int, ...]], dtype: torch.dtype, shard_bytes: int
) -> Iterator[dict[str, tuple[int, ...]]]:
    shard: dict[str, tuple[int, ...]] = {}
    size = 0
    for name, shape in shapes.items():
        shard[name] = shape
        size += torch.Size(shape).numel() * dtype.itemsize
        if size >= shard_bytes:
            yield shard
            shard, size = {}, 0
    if shard:
        yield shard


def _random(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    tensor = torch.empty(shape, dtype=dtype, device=device)
    return (tensor.fill_(1.0) if len(shape) == 1 else tensor.normal_(0.0, shape[-1] ** -0.5)).cpu()
