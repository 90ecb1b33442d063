"""One model under test: its directory, what its device can do, and its engine, loaded when first asked for."""

from __future__ import annotations

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from flover_backend.bench_engine.figures import Spread
from flover_backend.bench_engine.shapes import Shape
from flover_backend.bench_engine.workloads import Sizes
from flover_backend.channel import EngineInfo
from flover_backend.config import ModelJson
from flover_backend.engine.engine import Engine
from flover_backend.engine.load import load_engine
from flover_backend.engine.sizing import resolve_device
from flover_backend.engine.stages import StageTimes
from flover_backend.errors import ConfigError

Tell = Callable[[str], None]


@dataclass(slots=True)
class Probed:
    """What was measured of the device before any engine was loaded. Seconds and rates."""

    bandwidth: Spread
    products: dict[int, Spread]
    """Of the model, by rows."""
    products_13b: dict[int, Spread]
    dense: Spread | None = None
    """Floating-point operations a second of a large square product in the model's dtype."""
    prefill_products: Spread | None = None
    prefill_operations: int = 0


@dataclass(slots=True)
class Session:
    """Owns the engine with only `model` (and where it computes) set."""

    shape: Shape
    directory: Path
    device: torch.device
    sizes: Sizes
    tell: Tell
    probed: Probed
    stages: dict[str, float] = field(default_factory=dict)
    _loaded: tuple[Engine, EngineInfo] | None = None

    @property
    def engine(self) -> Engine:
        """With default settings."""
        return self._load()[0]

    @property
    def info(self) -> EngineInfo:
        """Its limits."""
        return self._load()[1]

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of a token in all layers."""
        itemsize: int = getattr(torch, self.info.dtype).itemsize
        return self.shape.kv_items_per_token * itemsize

    def _load(self) -> tuple[Engine, EngineInfo]:
        if self._loaded is None:
            free_device(self.device)  # what torch still holds would count as taken
            times = StageTimes(lambda stage, fraction: None)
            self._loaded = make_engine(self.directory, self.device, times)
            self.stages = times.seconds
            self.tell(f"{self.shape.title}: loaded, {times.describe()}")
        return self._loaded

    def unload(self) -> None:
        """Give the engine's memory back."""
        self._loaded = None
        free_device(self.device)


def make_engine(directory: Path, device: torch.device, times: StageTimes, **keys: Any) -> tuple[Engine, EngineInfo]:
    """An engine with random weights; `keys` are settings of model.json beside `model`."""
    config = ModelJson(model=str(directory), device=device.type, load_format="random", **keys)  # type: ignore[arg-type]
    return load_engine(config, directory, times)


def resolve_bench_device(name: str) -> torch.device:
    """As the engine resolves it, but that a CPU must be asked for: these models are too large for one."""
    device = resolve_device(name)
    if device.type == "cpu" and name != "cpu":
        raise ConfigError("this measures an NVIDIA GPU, and torch sees none; on a CPU: flover bench ratios")
    return device


def free_device(device: torch.device) -> None:
    """After the last reference is gone."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.empty_cache()
