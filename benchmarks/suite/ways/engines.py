"""The engines that the ways share: one model, loaded once, and the engines of one kind around it at a time.

Every engine is made as a server makes it (engine/load.py), so kernels, graphs and sampler are the same in all ways.
What they share is weights alone: row state, KV, workspaces of products, sampler's scratch, graphs with their memory
pool and the stream belong to an engine; cuBLAS keeps a workspace a stream. Knows nothing of requests.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from flover_backend import bundled
from flover_backend.bench_engine.figures import BenchError
from flover_backend.bench_engine.session import free_device
from flover_backend.bench_engine.shapes import SHAPES, Shape
from flover_backend.config import ModelJson
from flover_backend.engine.engine import Engine
from flover_backend.engine.load import build_engine
from flover_backend.engine.sizing import Limits, kv_bytes_per_token, resolve_device
from flover_backend.errors import ConfigError
from flover_backend.models.batch import Model
from flover_backend.models.load import load_model

MAX_INSTANCES = 32
"""torch has so many streams of a priority, and a GPU so many hardware queues; beyond, instances would share them."""
MAX_PROMPT_CHUNK = 256
"""Most prompt tokens an iteration of an instance, which bounds the graphs that each records."""
CONNECTIONS, DEFAULT_CONNECTIONS = "CUDA_DEVICE_MAX_CONNECTIONS", 8
TOLD_EVERY = 8


def allow_many_streams() -> None:
    """Give streams a hardware queue each (8 in all by default: others wait for one another). Before CUDA is used."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        os.environ.setdefault(CONNECTIONS, str(MAX_INSTANCES))


def hardware_queues() -> int:
    """That streams share, as this process was told before it used CUDA."""
    return int(os.environ.get(CONNECTIONS, DEFAULT_CONNECTIONS))


class Engines:
    """Owns the model, and the engines of the kind that was asked for last. On a GPU one kind alone has room."""

    def __init__(
        self,
        model: Shape | Path | str,
        device: torch.device | str,
        load_format: str,
        tell: Callable[[str], None],
        keys: dict[str, Any],
    ) -> None:
        """`keys`: of model.json (config.py), for the engine that fuses; instances take those that suit them."""
        allow_many_streams()
        self.device, self._tell, self._keys = resolve_device(str(device).split(":")[0]), tell, keys
        self._folder = tempfile.TemporaryDirectory(prefix="flover-shape-")
        self.directory, self.name, random = _find(model, Path(self._folder.name))
        self._load_format = "random" if random else load_format
        dtype = keys.get("dtype", "auto")
        tell(f"{self.name}: loading")
        self.model: Model = load_model(
            self.directory, dtype, self.device.type, lambda stage, fraction: None, self._load_format
        )
        self._kind: tuple[object, ...] = ()
        self._engines: list[Engine] = []
        self._limits: Limits | None = None

    @property
    def kv_bytes_per_token(self) -> int:
        """Keys and values of a token in all layers."""
        return kv_bytes_per_token(self.model)

    @property
    def limits(self) -> Limits:
        """Of the engines there are."""
        assert self._limits is not None
        return self._limits

    def fused(self, **keys: Any) -> tuple[Engine, bool]:
        """The engine with the given settings, `keys` over them; and whether it was made just now."""
        kind = ("fused", *sorted(keys.items()))
        new = self._replace(kind)
        if new:
            self._tell(f"{self.name}: an engine{''.join(f', {key} {value}' for key, value in keys.items())}")
            self._make(self._config(**keys))
        return self._engines[0], new

    def instances(self, count: int, max_len: int, max_prompt: int) -> tuple[list[Engine], list[Engine]]:
        """`count` engines of a row each, for requests of at most `max_len` tokens; and those of them that are new.

        Each has KV for one request and graphs of one row. All are made before any is used: recording a graph while
        others run would have to wait for them. Raises `BenchError` for a count that is not allowed.
        """
        if not 1 <= count <= MAX_INSTANCES:
            raise BenchError(f"instances is {count}; allowed is 1 .. {MAX_INSTANCES}: each needs a stream of its own")
        block = self._config().block_size
        max_len = min(-(-max_len // block) * block, self.model.max_model_len)
        # One less than a multiple of 16: beside its single row, an iteration then fills a graph's size.
        chunk = -(-(min(max_prompt, MAX_PROMPT_CHUNK) + 1) // 16) * 16 - 1
        self._replace(("instances", max_len, chunk))
        new: list[Engine] = []
        if self.device.type == "cuda" and hardware_queues() < count:
            self._tell(f"{count} streams share {hardware_queues()} hardware queues; set {CONNECTIONS}={MAX_INSTANCES}")
        config = self._config(
            max_rows=1,
            max_model_len=max_len,
            kv_cache_tokens=-(-max_len // block) * block,
            kv_cache_bytes=None,
            kv_cache_fraction=None,
            max_tokens_limit=None,
            prefill_token_budget=chunk,
        )
        while len(self._engines) < count:
            if not new or len(new) % TOLD_EVERY == 0:
                self._tell(f"{self.name}: model instances, {len(self._engines)} of {count}")
            self._make(config)
            new.append(self._engines[-1])
        return self._engines[:count], new

    @property
    def most_instances(self) -> int:
        """That gain anything by being there at the same time."""
        return MAX_INSTANCES if self.device.type == "cuda" else min(MAX_INSTANCES, len(os.sched_getaffinity(0)))

    def unload(self) -> None:
        """Give the engines' memory back; the weights stay."""
        self._kind, self._engines, self._limits = (), [], None
        free_device(self.device)

    def close(self) -> None:
        """Give everything back."""
        self._engines = []
        if hasattr(self, "model"):
            del self.model
        free_device(self.device)
        self._folder.cleanup()

    def _replace(self, kind: tuple[object, ...]) -> bool:
        if kind == self._kind:
            return False
        self.unload()
        self._kind = kind
        return True

    def _make(self, config: ModelJson) -> None:
        try:
            engine, self._limits = build_engine(config, self.model, lambda stage, fraction: None)
        except BaseException:
            self.unload()
            raise
        self._engines.append(engine)

    def _config(self, **keys: Any) -> ModelJson:
        own = {"model": str(self.directory), "device": self.device.type, "load_format": self._load_format}
        return ModelJson(**(own | self._keys | keys))


def _find(model: Shape | Path | str, folder: Path) -> tuple[Path, str, bool]:
    """(directory, name, whether its weights must be random) of a shape, a directory or a bundled model."""
    shape = model if isinstance(model, Shape) else SHAPES.get(str(model))
    if shape is not None:
        return shape.write(folder), shape.name, True
    directory = Path(model)  # type: ignore[arg-type]
    if not directory.is_dir() and str(model) not in bundled.names():
        raise ConfigError(
            f"--model {str(model)!r}; allowed: a Hugging Face directory, a shape ({', '.join(SHAPES)}), "
            f"or a bundled model ({', '.join(bundled.names())})"
        )
    if not directory.is_dir():
        directory = bundled.path_of(str(model))
    return directory, directory.resolve().name, False
