"""Writes a safetensors file one tensor at a time, so that no model need fit in memory. Knows the format alone.

The format: 8 bytes little-endian length of the header, the header as JSON (name -> dtype, shape, data_offsets),
then the data without gaps.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

DType = Literal["float32", "float16", "bfloat16"]
NAMES: dict[DType, tuple[str, int]] = {"float32": ("F32", 4), "float16": ("F16", 2), "bfloat16": ("BF16", 2)}
"""The format's name of each dtype, and bytes of an element."""


def write_safetensors(
    path: Path,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, npt.NDArray[np.float32]]],
    dtype: DType,
) -> None:
    """Write `tensors`, which must come in the order of `shapes`, rounded to `dtype`. Raises `ValueError` otherwise."""
    header = _header(shapes, dtype)
    expected = iter(shapes.items())
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name, values in tensors:
            if (name, values.shape) != next(expected, None):
                raise ValueError(f"tensor {name} {values.shape} comes out of order")
            file.write(round_to(values, dtype).tobytes())
        if next(expected, None) is not None:
            raise ValueError("tensors are missing")


def round_to(values: npt.NDArray[np.float32], dtype: DType) -> npt.NDArray[np.generic]:
    """float32 values in `dtype`, to the nearest, ties to even. bfloat16 comes as its uint16 bit patterns."""
    if dtype != "bfloat16":
        return values.astype(np.dtype(dtype).newbyteorder("<"), copy=False)
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32)
    rounded = (bits + (0x7FFF + ((bits >> 16) & 1))) >> 16
    quiet_nan = (bits >> 16) | 0x40
    return np.where(np.isnan(values), quiet_nan, rounded).astype("<u2")


def _header(shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> bytes:
    name, item_size = NAMES[dtype]
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for key, shape in shapes.items():
        end = begin + math.prod(shape) * item_size
        entries[key] = {"dtype": name, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)
