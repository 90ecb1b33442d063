"""What the device can do with the model's weights, in the same run: the bound that iterations are held against."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from flover_backend.bench_engine.probes import Products, copy_bandwidth
from flover_backend.bench_engine.session import free_device
from flover_backend.bench_engine.shapes import Shape

ROWS = {"cuda": (1, 2, 4, 8, 16, 32, 64, 128, 256), "cpu": (1, 8, 32)}


@dataclass(frozen=True, slots=True)
class Probe:
    """Medians. `copy_bandwidth`: bytes a second, read and written."""

    copy_bandwidth: float
    products_ms: dict[int, float]
    """Of every weight product of an iteration in one graph, by its rows."""


def probe_device(directory: Path, dtype: torch.dtype, device: torch.device, rows: Sequence[int] | None = None) -> Probe:
    """Takes as much memory as the weights, for a copy of their sizes; gives it back."""
    bandwidth = copy_bandwidth(device).median
    products = Products(shape_of(directory), dtype, device)
    times = {count: products.seconds(count).median * 1e3 for count in rows or ROWS[device.type]}
    del products
    free_device(device)
    return Probe(bandwidth, times)


def shape_of(directory: Path) -> Shape:
    """Of a model directory's config.json."""
    config = json.loads((directory / "config.json").read_bytes())
    if "num_attention_heads" in config:
        config.setdefault("num_key_value_heads", config["num_attention_heads"])
    return Shape(directory.name, directory.name, {"n_inner": None} | config)
