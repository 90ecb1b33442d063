"""Single values of config.json that every architecture has, checked. Knows no architecture."""

from __future__ import annotations

from typing import Any

from flover_backend.errors import ConfigError

MAX_EOS_TOKEN_IDS = 64
"""Beside as many `stop_token_ids` of a request; min_tokens masks them all (kernels/row_layout.py, MAX_MASKS)."""

MAX_LAYERS = 10_000
"""Far above any model; a damaged number must not have billions of names written down before a tensor is missed."""

MAX_HEAD_DIM = 4096
"""Likewise: tables of its size are made before the weights are looked at."""

_HUGE = 2**63
_LARGEST_SIZE = 2**31
_DTYPES = ("float32", "float16", "bfloat16")


def require_positive(json: Any, *names: str) -> None:
    """Raise `ConfigError` naming the first of these attributes that is neither None nor above 0 and at most 2^31."""
    for name in names:
        value = getattr(json, name)
        if value is not None and not 0 < value <= _LARGEST_SIZE:
            raise ConfigError(f"{name} = {value}; allowed: a number greater than 0, at most {_LARGEST_SIZE}")


def require_layers(name: str, value: int) -> None:
    """Raise `ConfigError` unless the number of layers is one that a model can have."""
    if not 0 < value <= MAX_LAYERS:
        raise ConfigError(f"{name} = {value}; allowed: 1 .. {MAX_LAYERS}")


def positive(name: str, value: Any) -> float:
    """The number as a float. Raises `ConfigError` when it is none, not finite or not above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < _HUGE:
        raise ConfigError(f"{name} = {value!r}; allowed: a finite number greater than 0")
    return float(value)


def dtype_name(given: str | None) -> str | None:
    """float32, float16 or bfloat16; None when config.json names none."""
    name = (given or "").removeprefix("torch.")
    if name and name not in _DTYPES:
        raise ConfigError(f"dtype = {name!r}; allowed: {', '.join(_DTYPES)}, or no key")
    return name or None


def bos_token_id(given: int | list[int] | None) -> int | None:
    """The first one of a list."""
    return _ids("bos_token_id", given)[0] if given is not None else None


def eos_token_ids(in_config: int | list[int] | None, generation: dict[str, Any]) -> tuple[int, ...]:
    """Those of config.json, then further ones of generation_config.json."""
    ids = _ids("eos_token_id", in_config) + _ids("eos_token_id", generation.get("eos_token_id"))
    return tuple(dict.fromkeys(ids))


def check_eos_token_ids(eos_token_ids: tuple[int, ...], vocab_size: int) -> None:
    """Raise `ConfigError` when there are more than a row can keep, else naming the first id that is no token."""
    if len(eos_token_ids) > MAX_EOS_TOKEN_IDS:
        raise ConfigError(
            f"eos_token_id: {len(eos_token_ids)} ids in config.json and generation_config.json together; allowed: at "
            f"most {MAX_EOS_TOKEN_IDS}"
        )
    outside = [i for i in eos_token_ids if not 0 <= i < vocab_size]
    if outside:
        raise ConfigError(f"eos_token_id = {outside[0]}; allowed: 0 .. {vocab_size - 1} (vocab_size - 1)")


def _ids(key: str, value: Any) -> list[int]:
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if any(not isinstance(i, int) or isinstance(i, bool) for i in ids):
        raise ConfigError(f"{key} = {value!r}; allowed: a token id or a list of token ids")
    return ids
