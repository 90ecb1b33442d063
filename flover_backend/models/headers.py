"""Weights that are looked at and not read: names, shapes and dtypes from the files' headers, tensors without memory.

Asked as `WeightFiles` is (models/weights.py, `Weights`).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch

from flover_backend.models.random_weights import ShapesOnly, stacked_shape
from flover_backend.models.weights import WeightFiles


class Headers(ShapesOnly):
    """A model built of these knows its sizes, and that a load would find every tensor."""

    def __init__(self, files: WeightFiles, dtype: torch.dtype) -> None:
        super().__init__(dtype)
        self._files = files

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor without memory. Raises `ConfigError` when the files' one is missing or misshapen."""
        self._files.look(name, shape)
        return super().take(name, shape)

    def take_stacked(self, names: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> torch.Tensor:
        """A tensor without memory, of several that are checked."""
        names, shapes = list(names), list(shapes)
        for name, shape in zip(names, shapes, strict=True):
            self._files.look(name, shape)
        return super().take(names[0], stacked_shape(shapes))

    def finish(self, leftovers: tuple[str, ...] = ()) -> None:
        """Raise `ConfigError` naming tensors that nobody asked for."""
        self._files.finish(leftovers)
