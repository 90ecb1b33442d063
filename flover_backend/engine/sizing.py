"""From model.json's optional keys to numbers that fit the model and the memory. Knows no request, loads nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from flover_backend.config import ModelJson
from flover_backend.engine.reserve import NO_RESERVE, Reserve
from flover_backend.errors import ConfigError
from flover_backend.models.batch import Model

DEFAULT_ROWS = {"cpu": 32, "cuda": 256}
DEFAULT_CPU_KV_BYTES = 1 << 30
DEFAULT_GPU_KV_FRACTION = 0.9


@dataclass(frozen=True, slots=True)
class Limits:
    """Resolved limits of requests."""

    max_rows: int
    max_model_len: int
    max_tokens_limit: int
    max_tokens_default: int
    max_prompt_bytes: int


def resolve_device(name: str) -> torch.device:
    """The device that `device` names; auto: a GPU if there is one."""
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("device is cuda, but torch sees no GPU; use auto or cpu, or install torch for this GPU")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def resolve_limits(config: ModelJson, model: Model) -> Limits:
    """Raises `ConfigError` where a key asks for more than the model or another key allows."""
    max_model_len = config.max_model_len or model.max_model_len
    if max_model_len > model.max_model_len:
        raise ConfigError(
            f"max_model_len is {max_model_len}; the model allows 1 .. {model.max_model_len}: lower it or leave it out"
        )
    limit = config.max_tokens_limit or max_model_len
    if limit > max_model_len:
        raise ConfigError(
            f"max_tokens_limit is {limit}; allowed is 1 .. {max_model_len} (max_model_len): lower it or leave it out"
        )
    return Limits(
        max_rows=config.max_rows or DEFAULT_ROWS[model.device.type],
        max_model_len=max_model_len,
        max_tokens_limit=limit,
        max_tokens_default=min(config.max_tokens_default, limit),
        max_prompt_bytes=config.max_prompt_bytes or 16 * max_model_len,
    )


def kv_bytes_per_token(model: Model) -> int:
    """Keys and values of one token in all layers."""
    return 2 * model.num_layers * model.num_kv_heads * model.head_dim * model.dtype.itemsize


def check_weights_fit(weight_bytes: int, device: torch.device, free_bytes: int) -> None:
    """Raise `ConfigError` where a GPU has less than the weights take; nothing is allocated yet. A CPU may swap."""
    if device.type != "cpu" and weight_bytes > free_bytes:
        raise ConfigError(
            f"the weights take {_size(weight_bytes)}; {_size(free_bytes)} of the GPU are free: free some of it "
            "(another process may hold it), or set dtype to a smaller one, or serve a smaller model"
        )


def resolve_num_blocks(
    config: ModelJson,
    limits: Limits,
    model: Model,
    free_bytes: int,
    reserve: Reserve = NO_RESERVE,
) -> int:
    """Blocks that requests can use; `free_bytes` of memory are free now, of which `reserve` is kept.

    Raises `ConfigError` with the arithmetic where they cannot be had, or cannot hold one request of max_model_len.
    """
    block_bytes = config.block_size * kv_bytes_per_token(model)
    needed = -(-limits.max_model_len // config.block_size)
    usable_bytes = max(0, free_bytes - reserve.total)
    num_blocks, asked = _asked_blocks(config, model, block_bytes, needed * limits.max_rows, usable_bytes)
    if num_blocks < needed:
        raise ConfigError(
            f"the KV buffer ({asked}) holds {max(0, num_blocks)} blocks of {config.block_size} tokens, {block_bytes} "
            f"bytes each; one request of max_model_len {limits.max_model_len} needs {needed} blocks = "
            f"{needed * block_bytes} bytes: lower max_model_len or give kv_cache_bytes that much"
            f"{_on_gpu(model, reserve, free_bytes)}"
        )
    if (num_blocks + 1) * block_bytes > usable_bytes:
        raise ConfigError(
            f"the KV buffer ({asked}) takes {(num_blocks + 1) * block_bytes} bytes; {usable_bytes} are free beside the "
            f"weights of {model.weight_bytes}: lower it, or max_model_len with it{_on_gpu(model, reserve, free_bytes)}"
        )
    return num_blocks


def _on_gpu(model: Model, reserve: Reserve, free_bytes: int) -> str:
    """The rest of a refusal's arithmetic."""
    return f" ({memory_parts(model, reserve, free_bytes)})" if reserve.total else ""


def memory_parts(model: Model, reserve: Reserve, free_bytes: int) -> str:
    """What lies on the GPU and what is kept free of KV; `free_bytes` were free after the weights."""
    return (
        f"weights {_size(model.weight_bytes)}, activations {_size(reserve.activations)}, graphs "
        f"{_size(reserve.graphs)}, free after the weights {_size(free_bytes)}"
    )


def _size(num_bytes: int) -> str:
    return f"{num_bytes / 2**30:.2f} GiB"


@contextmanager
def refuse_out_of_memory(doing: str, arithmetic: str, device: torch.device) -> Iterator[None]:
    """Turn an error of any allocation into a `ConfigError` that says what was being made and how the sum was made.

    Only torch's allocator has an error of its own; graphs, pinned memory and kernels' code run out by a text.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "out of memory" not in str(error):
            raise
        raise ConfigError(
            f"out of memory while {doing}: {arithmetic}; {_size(free_memory(device))} are free now: lower "
            "kv_cache_bytes or kv_cache_fraction, max_rows or prefill_token_budget"
        ) from None


def _asked_blocks(config: ModelJson, model: Model, block_bytes: int, usable: int, free_bytes: int) -> tuple[int, str]:
    """Blocks that the configuration asks for, and how it says so. The default takes no more than rows can use."""
    if config.kv_cache_tokens is not None:
        return config.kv_cache_tokens // config.block_size, f"kv_cache_tokens {config.kv_cache_tokens}"
    if config.kv_cache_bytes is not None:
        return config.kv_cache_bytes // block_bytes - 1, f"kv_cache_bytes {config.kv_cache_bytes}"
    if model.device.type == "cpu":
        if config.kv_cache_fraction is not None:
            raise ConfigError(
                f"kv_cache_fraction is {config.kv_cache_fraction}; it is a share of a GPU's memory and the device is "
                "the CPU: give kv_cache_bytes or kv_cache_tokens"
            )
        return min(DEFAULT_CPU_KV_BYTES // block_bytes - 1, usable), f"default {DEFAULT_CPU_KV_BYTES} bytes"
    fraction = config.kv_cache_fraction or DEFAULT_GPU_KV_FRACTION
    return min(int(free_bytes * fraction) // block_bytes - 1, usable), f"kv_cache_fraction {fraction}"


def free_memory(device: torch.device) -> int:
    """Bytes that can be allocated now. Reads /proc/meminfo's MemAvailable on the CPU."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise ConfigError("/proc/meminfo has no MemAvailable; a Linux kernel of 3.14 or newer is needed")
