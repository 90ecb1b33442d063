"""The tensors of a Hugging Face directory: model.safetensors, or shards with model.safetensors.index.json.

`WeightFiles` hands out tensors by name and shape and knows in the end which were never asked for: missing, misshapen
and surplus ones fail the load. Only harmless leftovers of old checkpoints may stay behind, by name. Knows no model.
On a GPU a tensor is filled behind the caller's back, by models/device_reader.py, until `finish` returns.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open

from flover_backend.errors import ConfigError
from flover_backend.models.device_reader import DeviceReader

Progress = Callable[[str, float], None]
"""(stage, fraction 0 .. 1)"""

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_LEFTOVERS = re.compile(r"(^|\.)(rotary_emb\.inv_freq|attn\.bias|attn\.masked_bias)$")
_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SHOWN = 5
_CONVERT = "convert it to safetensors, with transformers' from_pretrained and save_pretrained"


class Weights(Protocol):
    """Where a model's tensors come from, one after another: files, or models/random_weights.py."""

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """A tensor in the load's dtype on its device, the caller's own. Its values are there after `finish`."""
        ...

    def take_stacked(self, names: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> torch.Tensor:
        """Several tensors as one, along their first dimension."""
        ...

    def finish(self, leftovers: tuple[str, ...] = ()) -> None:
        """After the last `take`: every tensor holds its values. `leftovers` may stay untaken."""
        ...


class WeightFiles:
    """Owns the open files of one checkpoint. Use as a context manager; call `finish` after the last `take`.

    prefix: what the names of all tensors but the head's begin with. A checkpoint of the model without its head, to
    which a head was added later, has none of them: its tensors are asked for with the prefix and found without.
    """

    def __init__(
        self, model_dir: Path, dtype: torch.dtype, device: torch.device, progress: Progress, prefix: str = ""
    ) -> None:
        self._model_dir, self._dtype, self._device, self._progress = model_dir, dtype, device, progress
        self._files = {name: _open(model_dir / name) for name in _file_names(model_dir)}
        self._where = {key: file for file in self._files.values() for key in file.keys()}  # noqa: SIM118
        self._absent_prefix = "" if any(key.startswith(prefix) for key in self._where) else prefix
        self._untaken = dict.fromkeys(self._where)
        self._reader: DeviceReader | None = None
        self._data: dict[str, tuple[Path, int]] = {}
        _check_index(model_dir, self._where)

    def __enter__(self) -> WeightFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._reader is not None:
            self._reader.close()
        self._files.clear()
        self._where.clear()

    def take(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The tensor in the load's dtype on its device. Raises `ConfigError` when missing or misshapen."""
        stored = self._check(name, shape)
        self._untaken.pop(self._stored(name), None)
        if self._device.type != "cpu":
            return self._fill([name], [stored], torch.empty(shape, dtype=self._dtype, device=self._device))
        self._progress("weights", 1 - len(self._untaken) / len(self._where))
        stored_name = self._stored(name)
        tensor: torch.Tensor = self._where[stored_name].get_tensor(stored_name)
        return tensor.to(device=self._device, dtype=self._dtype, copy=True)

    def take_stacked(self, names: Iterable[str], shapes: Iterable[tuple[int, ...]]) -> torch.Tensor:
        """Several tensors as one, along their first dimension."""
        if self._device.type == "cpu":
            return torch.cat([self.take(name, shape) for name, shape in zip(names, shapes, strict=True)])
        names, shapes = list(names), list(shapes)
        stored = [self._check(name, shape) for name, shape in zip(names, shapes, strict=True)]
        for name in names:
            self._untaken.pop(self._stored(name), None)
        shape = (sum(shape[0] for shape in shapes), *shapes[0][1:])
        return self._fill(names, stored, torch.empty(shape, dtype=self._dtype, device=self._device))

    def look(self, name: str, shape: tuple[int, ...]) -> None:
        """Check a tensor as `take` does, and count it as taken; its values are not read."""
        self._check(name, shape)
        self._untaken.pop(self._stored(name), None)

    def stored_dtype(self, name: str) -> torch.dtype:
        """The dtype that the file holds the tensor in."""
        stored_name = self._stored(name)
        if stored_name not in self._where:
            raise ConfigError(f"{self._model_dir}: tensor {name} is missing")
        return self._where[stored_name].get_slice(stored_name)[:0].dtype  # type: ignore[no-any-return]

    def finish(self, leftovers: tuple[str, ...] = ()) -> None:
        """Wait for the values. Raise `ConfigError` naming tensors that nobody took, but for harmless ones and those
        named here."""
        surplus = [n for n in self._untaken if n not in leftovers and not _LEFTOVERS.search(n)]
        if surplus:
            shown = ", ".join(surplus[:_SHOWN]) + (
                f" and {len(surplus) - _SHOWN} more" if len(surplus) > _SHOWN else ""
            )
            raise ConfigError(f"{self._model_dir}: unknown tensors {shown}; config.json describes a model without them")
        if self._reader is not None:
            self._reader.wait(lambda fraction: self._progress("weights", fraction))

    def _stored(self, name: str) -> str:
        """The name that the file has for the tensor."""
        return name.removeprefix(self._absent_prefix)

    def _check(self, name: str, shape: tuple[int, ...]) -> torch.dtype:
        """The dtype that the file holds the tensor in."""
        stored_name = self._stored(name)
        if stored_name not in self._where:
            raise ConfigError(f"{self._model_dir}: tensor {stored_name} is missing; expected shape {list(shape)}")
        stored = self._where[stored_name].get_slice(stored_name)
        if tuple(stored.get_shape()) != shape:
            raise ConfigError(
                f"{self._model_dir}: tensor {name} has shape {stored.get_shape()}; config.json asks for {list(shape)}"
            )
        if stored.get_dtype() not in _DTYPES:
            allowed = ", ".join(str(d).removeprefix("torch.") for d in _DTYPES.values())
            raise ConfigError(f"{self._model_dir}: tensor {name} is {stored[:0].dtype}; allowed: {allowed}")
        return _DTYPES[stored.get_dtype()]

    def _fill(self, names: list[str], stored: list[torch.dtype], out: torch.Tensor) -> torch.Tensor:
        """Begin to fill `out` with the tensors, one after another along the first dimension."""
        if self._reader is None:
            self._reader = DeviceReader(self._device)
            self._data = {key: place for name in self._files for key, place in _places(self._model_dir / name).items()}
        first = 0
        for name, dtype in zip(map(self._stored, names), stored, strict=True):
            rows = self._where[name].get_slice(name).get_shape()[0]
            self._reader.read(*self._data[name], dtype, out[first : first + rows])
            first += rows
        return out


def _places(path: Path) -> dict[str, tuple[Path, int]]:
    """Where each tensor's bytes begin, from the file's header, which `safe_open` has checked before."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {
        name: (path, 8 + length + entry["data_offsets"][0]) for name, entry in header.items() if name != "__metadata__"
    }


def _file_names(model_dir: Path) -> list[str]:
    if (model_dir / SINGLE).exists():
        return [SINGLE]
    if (model_dir / INDEX).exists():
        return list(dict.fromkeys(_weight_map(model_dir).values()))
    found = sorted(path.name for path in model_dir.glob("*.bin")) + sorted(
        path.name for path in model_dir.glob("*.pt*")
    )
    hint = f" ({found[0]} is a pickle file: {_CONVERT})" if found else ""
    raise ConfigError(f"{model_dir} holds no weights{hint}; expected {SINGLE}, or shards with {INDEX}")


def _weight_map(model_dir: Path) -> dict[str, str]:
    path = model_dir / INDEX
    try:
        weight_map = json.loads(path.read_bytes())["weight_map"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path}: not an index of safetensors shards ({error!r}); expected a weight_map") from None
    if not isinstance(weight_map, dict) or not all(_is_file_name(value) for value in weight_map.values()):
        raise ConfigError(f"{path}: weight_map must map tensor names to file names of the same directory")
    return weight_map


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and value == Path(value).name and value not in ("", "..")


def _open(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise ConfigError(f"{path}: truncated, or not a safetensors file ({error})") from None


def _check_index(model_dir: Path, where: dict[str, Any]) -> None:
    """Every tensor that an index names is in the shards."""
    if not (model_dir / SINGLE).exists():
        absent = [name for name in _weight_map(model_dir) if name not in where]
        if absent:
            raise ConfigError(f"{model_dir / INDEX} names tensor {absent[0]}, which no shard holds")
