"""The model's inputs and outputs as one table, and what is made from it: auto-completion, config.pbtxt, the load check.

Knows names, Triton types and dims; knows nothing of what the values mean (parse.py) or how outputs are built
(responses.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flover_backend.errors import ConfigError

MAX_BATCH_SIZE = 0
"""Triton must not batch: the engine fuses requests itself."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One declared tensor. `dims` hold -1 for a length that varies."""

    name: str
    data_type: str
    dims: tuple[int, ...]
    optional: bool = False

    def as_config(self) -> dict[str, Any]:
        """The entry of Triton's model configuration."""
        entry: dict[str, Any] = {"name": self.name, "data_type": self.data_type, "dims": list(self.dims)}
        return entry | {"optional": True} if self.optional else entry


def _input(name: str, data_type: str, *dims: int) -> TensorSpec:
    return TensorSpec(name, data_type, dims or (1,), optional=True)


INPUTS = (
    _input("text_input", "TYPE_STRING"),
    _input("input_ids", "TYPE_INT32", -1),
    _input("stream", "TYPE_BOOL"),
    _input("sampling_parameters", "TYPE_STRING"),
    _input("exclude_input_in_output", "TYPE_BOOL"),
    _input("return_finish_reason", "TYPE_BOOL"),
    _input("return_cumulative_logprob", "TYPE_BOOL"),
    _input("return_logprobs", "TYPE_BOOL"),
    _input("return_num_input_tokens", "TYPE_BOOL"),
    _input("return_num_output_tokens", "TYPE_BOOL"),
    _input("max_tokens", "TYPE_INT32"),
    _input("min_tokens", "TYPE_INT32"),
    _input("top_k", "TYPE_INT32"),
    _input("temperature", "TYPE_FP32"),
    _input("top_p", "TYPE_FP32"),
    _input("seed", "TYPE_UINT64"),
    _input("ignore_eos", "TYPE_BOOL"),
)
OUTPUTS = (
    TensorSpec("text_output", "TYPE_STRING", (-1,)),
    TensorSpec("output_ids", "TYPE_INT32", (-1,)),
    TensorSpec("finish_reason", "TYPE_STRING", (-1,)),
    TensorSpec("cumulative_logprob", "TYPE_FP32", (-1,)),
    TensorSpec("logprobs", "TYPE_STRING", (-1,)),
    TensorSpec("num_input_tokens", "TYPE_UINT32", (1,)),
    TensorSpec("num_output_tokens", "TYPE_UINT32", (-1,)),
)


def complete(config: Any) -> Any:
    """Fill a Triton `ModelConfig` (auto-completion): all tensors, no batching by Triton, decoupled responses."""
    for spec in INPUTS:
        config.add_input(spec.as_config())
    for spec in OUTPUTS:
        config.add_output(spec.as_config())
    config.set_max_batch_size(MAX_BATCH_SIZE)
    config.set_model_transaction_policy({"decoupled": True})
    return config


def config_pbtxt(name: str = "flover", instances: int = 1, backend: str = "python") -> str:
    """The full text of config.pbtxt: as it is shipped, or with the python-based backend `flover`."""
    parts = [
        f'name: "{name}"',
        f'backend: "{backend}"',
        f"max_batch_size: {MAX_BATCH_SIZE}",
        "model_transaction_policy { decoupled: true }",
        f"instance_group [ {{ kind: KIND_MODEL, count: {instances} }} ]",
        _pbtxt_list("input", INPUTS),
        _pbtxt_list("output", OUTPUTS),
    ]
    return "\n".join(parts) + "\n"


def _pbtxt_list(kind: str, specs: tuple[TensorSpec, ...]) -> str:
    return f"{kind} [\n" + ",\n".join(f"  {{ {_pbtxt_entry(spec)} }}" for spec in specs) + "\n]"


def _pbtxt_entry(spec: TensorSpec) -> str:
    dims = ", ".join(str(dim) for dim in spec.dims)
    optional = ", optional: true" if spec.optional else ""
    return f'name: "{spec.name}", data_type: {spec.data_type}, dims: [ {dims} ]{optional}'


def check_model_config(config: Mapping[str, Any]) -> None:
    """Refuse a Triton model configuration that the backend cannot serve.

    `config` is what `initialize` gets. Raises `ConfigError`; when tensors are missing or differ (a server that runs
    with auto-completion off needs them in config.pbtxt), the text holds the config to paste.
    """
    faults = [*_tensor_faults("input", INPUTS, config), *_tensor_faults("output", OUTPUTS, config)]
    if faults:
        raise ConfigError(
            f"config.pbtxt: {'; '.join(faults)}. This server runs with auto-completion off, or its config.pbtxt is of "
            f"another version; paste this:\n{_config_to_paste(config)}"
        )
    if not config.get("model_transaction_policy", {}).get("decoupled", False):
        raise ConfigError("config.pbtxt: model_transaction_policy.decoupled is false; it must be true")
    if config.get("max_batch_size", 0) != MAX_BATCH_SIZE:
        raise ConfigError(f"config.pbtxt: max_batch_size is {config['max_batch_size']}; it must be {MAX_BATCH_SIZE}")


def _config_to_paste(config: Mapping[str, Any]) -> str:
    """The full config.pbtxt for this model: its name, its backend, as many instances as it has."""
    instances = sum(int(group.get("count", 1)) for group in config.get("instance_group", []))
    return config_pbtxt(config.get("name", "flover"), max(instances, 1), config.get("backend") or "python")


def _tensor_faults(kind: str, specs: tuple[TensorSpec, ...], config: Mapping[str, Any]) -> list[str]:
    given = {tensor["name"]: tensor for tensor in config.get(kind, [])}
    if not given:
        return [f"no {kind}s are declared"]
    faults = [f"{kind} '{name}' is unknown" for name in given if all(name != spec.name for spec in specs)]
    for spec in specs:
        found = given.get(spec.name)
        if found is None:
            faults.append(f"{kind} '{spec.name}' is missing")
        elif (found["data_type"], [int(dim) for dim in found["dims"]]) != (spec.data_type, list(spec.dims)):
            expected = f"{spec.data_type} {list(spec.dims)}"
            faults.append(f"{kind} '{spec.name}' is {found['data_type']} {found['dims']}, expected {expected}")
        elif spec.optional and not found.get("optional", False):
            faults.append(f"{kind} '{spec.name}' must be optional")
    return faults
