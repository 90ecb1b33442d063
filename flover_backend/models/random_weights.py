"""Weights that come from no file: random ones for benchmarks, and ones without memory for arithmetic about sizes.

Both are asked as `WeightFiles` is (models/weights.py, `Weights`). They know no model: a tensor's kind follows from its
name and shape.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from flover_backend.models.weights import Progress

SEED = 0x5EED


class RandomWeights:
    """Normal weights of standard deviation fan_in ** -0.5, made on the device from a fixed seed.

    So every product keeps its input's scale, at any width, and activations stay finite in float16 over any number of
    layers. Weights of norms are 1; biases are small. The same device and sizes give the same model.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device, progress: Progress, total_bytes: int) -> None:
        self._dtype, self._device, self._progress, self._total = dtype, device, progress, total_bytes
        self._generator = torch.Generator(device).manual_seed(SEED)
        self._done = 0

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A new tensor of `shape`."""
        tensor = torch.empty(shape, dtype=self._dtype, device=self._device)
        if len(shape) == 1 and name.endswith("weight"):
            tensor.fill_(1.0)
        else:
            tensor.normal_(0.0, 0.02 if len(shape) == 1 else shape[-1] ** -0.5, generator=self._generator)
        self._done += tensor.nbytes
        self._progress("weights", min(1.0, self._done / self._total))
        return tensor

    def take_stacked(self, names: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> torch.Tensor:
        """Several tensors as one, along their first dimension."""
        name, *_ = names
        return self.take(name, stacked_shape(list(shapes)))

    def finish(self, leftovers: tuple[str, ...] = ()) -> None:
        """Nothing can be left over; wait for the device, so that the time is told where it passes."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        self._progress("weights", 1.0)


class ShapesOnly:
    """Tensors on the device `meta`: a model built of them knows its number of parameters and its bytes."""

    def __init__(self, dtype: torch.dtype) -> None:
        self._dtype = dtype

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor without memory."""
        return torch.empty(shape, dtype=self._dtype, device="meta")

    def take_stacked(self, names: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> torch.Tensor:
        """A tensor without memory."""
        return self.take("", stacked_shape(list(shapes)))

    def finish(self, leftovers: tuple[str, ...] = ()) -> None:
        """Nothing can be left over."""


def stacked_shape(shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """Of several tensors along their first dimension."""
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])
