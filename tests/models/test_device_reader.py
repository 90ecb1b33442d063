"""Files to a device by threads: the same bits as safetensors reads, pieces and conversions included; errors arrive."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hf_models import SHAPES, make, save
from safetensors.torch import save_file

from flover_backend.errors import ConfigError
from flover_backend.models.device_reader import DeviceReader
from flover_backend.models.weights import WeightFiles, _places

CPU = torch.device("cpu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("stored", DTYPES)
@pytest.mark.parametrize("wanted", DTYPES)
def test_every_item_arrives_converted(tmp_path: Path, stored: torch.dtype, wanted: torch.dtype) -> None:
    tensors = {
        name: torch.randn(shape).to(stored) for name, shape in {"a": (37, 101), "b": (5,), "c": (64, 64)}.items()
    }
    save_file(tensors, tmp_path / "x.safetensors")
    places = _places(tmp_path / "x.safetensors")
    reader = DeviceReader(CPU, threads=3, piece=1024)
    out = {name: torch.full(tensor.shape, torch.nan, dtype=wanted) for name, tensor in tensors.items()}
    for name, tensor in out.items():
        reader.read(*places[name], stored, tensor)
    told: list[float] = []
    reader.wait(told.append)
    reader.close()
    assert told == sorted(told) and told[-1] == 1 and len(told) > 10
    for name, tensor in tensors.items():
        assert torch.equal(out[name], tensor.to(wanted)), name


def test_a_file_that_shrank_is_an_error(tmp_path: Path) -> None:
    save_file({"a": torch.randn(4096)}, tmp_path / "x.safetensors")
    place = _places(tmp_path / "x.safetensors")["a"]
    with (tmp_path / "x.safetensors").open("r+b") as file:
        file.truncate(9000)
    reader = DeviceReader(CPU, threads=2, piece=4096)
    reader.read(*place, torch.float32, torch.empty(4096))
    with pytest.raises(ConfigError, match=r"x\.safetensors: truncated"):
        reader.wait(lambda fraction: None)
    reader.close()


def test_weight_files_on_a_device_equal_those_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device's path, run with memory of the CPU in the device's place."""
    directory = save(make(SHAPES["qwen2"], torch.bfloat16), tmp_path / "model", max_shard_size="100KB")
    prefix = "model.layers.1.self_attn."
    names, shapes = [f"{prefix}{name}_proj.weight" for name in "qkv"], [(64, 64), (32, 64), (32, 64)]
    with WeightFiles(directory, torch.float32, CPU, lambda stage, fraction: None) as files:
        expected, single = files.take_stacked(names, shapes), files.take("model.norm.weight", (64,))
    told: list[tuple[str, float]] = []
    with WeightFiles(directory, torch.float32, CPU, lambda *news: told.append(news)) as files:
        files._device = torch.device("meta")
        monkeypatch.setattr("flover_backend.models.weights.DeviceReader", lambda device: DeviceReader(CPU, 2, 4096))
        empty = torch.empty

        def poisoned(*arguments: object, device: torch.device | None = None, **keys: object) -> torch.Tensor:
            return empty(*arguments, **keys).fill_(7) if device is not None else empty(*arguments, **keys)  # type: ignore[call-overload]

        monkeypatch.setattr(torch, "empty", poisoned)
        stacked, alone = files.take_stacked(names, shapes), files.take("model.norm.weight", (64,))
        with pytest.raises(ConfigError, match=r"shape \[64\]; config.json asks for \[65\]"):
            files.take("model.norm.weight", (65,))
        with pytest.raises(ConfigError, match="unknown tensors"):
            files.finish()
        assert files._reader is not None
        files._reader.wait(lambda fraction: files._progress("weights", fraction))
    assert torch.equal(stacked, expected) and torch.equal(alone, single)
    assert told[-1] == ("weights", 1.0)
