"""From a Hugging Face directory to a `Model`: which architecture it is, its configuration, its weights.

A further architecture is an entry of `ARCHITECTURES` and a file of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from flover_backend.errors import ConfigError
from flover_backend.kernels.linear import can_pack
from flover_backend.models.batch import Model
from flover_backend.models.config import DIALECTS, ModelConfig, parse_llama
from flover_backend.models.gptj_config import ARCHITECTURE as GPTJ
from flover_backend.models.gptj_config import parse_gptj
from flover_backend.models.gptj_weights import EMBEDDING as GPTJ_EMBEDDING
from flover_backend.models.gptj_weights import PREFIX as GPTJ_PREFIX
from flover_backend.models.gptj_weights import build_gptj
from flover_backend.models.headers import Headers
from flover_backend.models.llama_weights import EMBEDDING as LLAMA_EMBEDDING
from flover_backend.models.llama_weights import PREFIX as LLAMA_PREFIX
from flover_backend.models.llama_weights import build_llama
from flover_backend.models.random_weights import RandomWeights, ShapesOnly
from flover_backend.models.weights import Progress, WeightFiles, Weights

Config = TypeVar("Config", bound=ModelConfig)


@dataclass(frozen=True, slots=True)
class Architecture(Generic[Config]):
    """How one family of architectures is read and built."""

    parse: Callable[[str, dict[str, Any], dict[str, Any]], Config]
    """(architecture, config.json, generation_config.json) -> configuration"""
    build: Callable[[Config, Weights], Model]
    dtype_tensor: str
    """Whose dtype is the checkpoint's, where config.json names none."""
    prefix: str
    """Of all tensors' names but the head's."""


_LLAMA = Architecture(parse_llama, build_llama, LLAMA_EMBEDDING, LLAMA_PREFIX)
_GPTJ = Architecture(parse_gptj, build_gptj, GPTJ_EMBEDDING, GPTJ_PREFIX)
ARCHITECTURES: dict[str, Architecture[Any]] = dict.fromkeys(DIALECTS, _LLAMA) | {GPTJ: _GPTJ}
"""`architectures[0]` of config.json -> how to load it."""

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def read_model_config(model_dir: Path) -> ModelConfig:
    """Read config.json and generation_config.json. Raises `ConfigError` naming key, value and what is allowed."""
    return _read(model_dir)[1]


def load_model(model_dir: Path, dtype: str, device: str, progress: Progress, load_format: str = "auto") -> Model:
    """Load a directory's model onto `device` (a torch device string).

    dtype: float32, float16, bfloat16, or auto: float32 on the CPU, elsewhere the checkpoint's. load_format: auto, or
    random: weights of config.json's sizes that come from no file. `progress` is called with a stage and a fraction
    0 .. 1. Raises `ConfigError` when anything is missing, misshapen or not supported.
    """
    progress("weights", 0.0)
    architecture, config = _read(model_dir)
    place = torch.device(device)
    torch_dtype = resolve_dtype(dtype, place, model_dir, load_format)
    if load_format == "random":
        total = _weight_bytes(architecture, config, torch_dtype)
        return architecture.build(config, RandomWeights(torch_dtype, place, progress, total))
    with WeightFiles(model_dir, torch_dtype, place, progress, architecture.prefix) as weights:
        return architecture.build(config, weights)


def weight_bytes(model_dir: Path, dtype: str, device: str, load_format: str = "auto") -> int:
    """What `load_model` with these arguments allocates for weights on a GPU (a CPU may keep packed copies)."""
    architecture, config = _read(model_dir)
    return _weight_bytes(architecture, config, resolve_dtype(dtype, torch.device(device), model_dir, load_format))


def look_at_model(model_dir: Path, dtype: str, device: str, load_format: str = "auto") -> Model:
    """The model that `load_model` would load, without its values and their memory: checked, and of the right sizes.

    Its `device` is the one that it would be on; nothing can be computed with it. Raises `ConfigError` as a load does.
    """
    architecture, config = _read(model_dir)
    place = torch.device(device)
    torch_dtype = resolve_dtype(dtype, place, model_dir, load_format)
    if load_format == "random":
        model = architecture.build(config, ShapesOnly(torch_dtype))
    else:
        with WeightFiles(model_dir, torch_dtype, place, lambda stage, done: None, architecture.prefix) as files:
            model = architecture.build(config, Headers(files, torch_dtype))
    model.device = place
    if config.tie_word_embeddings and place.type == "cpu" and can_pack(torch.empty(0, dtype=torch_dtype)):
        model.weight_bytes += config.vocab_size * config.hidden_size * torch_dtype.itemsize  # the head's packed copy
    return model


def build_from(model_dir: Path, weights: Weights) -> Model:
    """The directory's model from weights of the caller's own making."""
    architecture, config = _read(model_dir)
    return architecture.build(config, weights)


def _weight_bytes(architecture: Architecture[Any], config: ModelConfig, dtype: torch.dtype) -> int:
    return architecture.build(config, ShapesOnly(dtype)).weight_bytes


def resolve_dtype(dtype: str, device: torch.device, model_dir: Path, load_format: str = "auto") -> torch.dtype:
    """The dtype that `load_model` takes: `auto` is float32 on the CPU, elsewhere the checkpoint's."""
    if dtype != "auto":
        if dtype not in _DTYPES:
            raise ConfigError(f"dtype = {dtype!r}; allowed: auto, {', '.join(_DTYPES)}")
        return _DTYPES[dtype]
    if device.type == "cpu":
        return torch.float32
    architecture, config = _read(model_dir)
    if config.dtype is not None:
        return _DTYPES[config.dtype]
    if load_format == "random":
        raise ConfigError(
            f"{model_dir / 'config.json'}: dtype is missing, and with load_format random there is no weight file to "
            f"take it from; set dtype to one of {', '.join(_DTYPES)}"
        )
    with WeightFiles(model_dir, torch.float32, device, lambda stage, fraction: None, architecture.prefix) as weights:
        return weights.stored_dtype(architecture.dtype_tensor)


def _read(model_dir: Path) -> tuple[Architecture[Any], ModelConfig]:
    if not model_dir.is_dir():
        raise ConfigError(f"model directory {model_dir} is not there; expected a Hugging Face directory")
    config = _read_json(model_dir / "config.json")
    generation = model_dir / "generation_config.json"
    name = _architecture_name(config, model_dir)
    try:
        parsed = ARCHITECTURES[name].parse(name, config, _read_json(generation) if generation.exists() else {})
    except ConfigError as error:
        raise ConfigError(f"{model_dir / 'config.json'}: {error}") from None
    return ARCHITECTURES[name], parsed


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing; expected a Hugging Face directory") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content


def _architecture_name(config: dict[str, Any], model_dir: Path) -> str:
    given = config.get("architectures")
    name = given[0] if isinstance(given, list) and len(given) == 1 else given
    if not isinstance(name, str) or name not in ARCHITECTURES:
        supported = ", ".join(ARCHITECTURES)
        raise ConfigError(f"{model_dir / 'config.json'}: architectures = {given!r}; supported: one of {supported}")
    return name
