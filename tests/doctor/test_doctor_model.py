"""What the engine's interpreter says of a model: its files by their headers, and the memory of its configuration."""

from __future__ import annotations

import json
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from repositories import at_level, copy_model

from flover_backend.bundled import names, path_of
from flover_backend.config import ModelJson
from flover_backend.doctor import model_probe
from flover_backend.doctor.model_probe import answer_to
from flover_backend.doctor.questions import ModelQuestion
from flover_backend.host.checks import Check
from flover_backend.memory_limit import available_bytes
from flover_backend.models.load import load_model, look_at_model

GIB = 1 << 30


def looked_at(directory: Path, **keys: Any) -> list[Check]:
    (answer,) = answer_to([ModelQuestion("m", str(directory), ModelJson(device="cpu", **keys))]).models
    return answer.checks


def fault(directory: Path, **keys: Any) -> str:
    (line,) = at_level(looked_at(directory, **keys), "fail")
    return line


def test_torch_is_named_with_its_interpreter() -> None:
    engine = answer_to([]).engine
    assert at_level(engine, "fail") == []
    assert any(check.name == "torch" and torch.__version__ in check.found for check in engine)


def test_an_old_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.4.1+cu121")
    (line,) = at_level(answer_to([]).engine, "fail")
    assert "2.4.1+cu121" in line and "pip install 'torch>=2.11'" in line


@pytest.mark.parametrize("name", names())
def test_the_bundled_models_are_good(name: str) -> None:
    checks = looked_at(path_of(name))
    assert [check.level for check in checks] == ["ok", "ok"]
    assert "weights" in checks[1].found and "32 requests of max_model_len" in checks[1].found


@pytest.mark.parametrize("name", names())
def test_a_model_that_is_looked_at_has_the_sizes_of_the_loaded_one(name: str) -> None:
    looked = look_at_model(path_of(name), "auto", "cpu")
    loaded = load_model(path_of(name), "auto", "cpu", lambda stage, done: None)
    for field in (
        "num_parameters",
        "weight_bytes",
        "num_layers",
        "num_kv_heads",
        "head_dim",
        "vocab_size",
        "dtype",
        "device",
    ):
        assert getattr(looked, field) == getattr(loaded, field)


def test_no_values_are_read(tmp_path: Path) -> None:
    """A file of gigabytes, all of it a hole."""
    directory = copy_model(tmp_path, vocab_size=1536)
    path = directory / "model.safetensors"
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    end = 0
    for entry in header.values():  # the same tensors, each a thousand times as wide
        entry["shape"] = [1000 * size for size in entry["shape"][:1]] + entry["shape"][1:]
        size = 1000 * (entry["data_offsets"][1] - entry["data_offsets"][0])
        entry["data_offsets"] = [end, end + size]
        end += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + end)
    assert "has shape [" in fault(directory)


FILES = {
    "no config": (lambda d: (d / "config.json").unlink(), "config.json is missing"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "holds no weights"),
    "a pickle": (lambda d: (d / "model.safetensors").rename(d / "pytorch_model.bin"), "is a pickle file: convert it"),
    "cut off": (
        lambda d: (d / "model.safetensors").write_bytes((d / "model.safetensors").read_bytes()[:-100]),
        "truncated, or not a safetensors file",
    ),
    "a shard that is not there": (
        lambda d: (
            (d / "model.safetensors").unlink(),
            (d / "model.safetensors.index.json").write_text('{"weight_map": {"a": "one.safetensors"}}'),
        ),
        "one.safetensors is missing",
    ),
}


@pytest.mark.parametrize(("spoil", "said"), FILES.values(), ids=FILES)
def test_files_that_are_wrong(tmp_path: Path, spoil: Any, said: str) -> None:
    directory = copy_model(tmp_path)
    spoil(directory)
    line = fault(directory)
    assert said in line and "docs/models.md" in line


CONFIGS: dict[str, tuple[dict[str, Any], str]] = {
    "another architecture": ({"architectures": ["BertForMaskedLM"]}, "supported: one of LlamaForCausalLM"),
    "a rope that is not supported": ({"rope_scaling": {"rope_type": "yarn", "factor": 2}}, "rope_type = 'yarn'"),
    "more layers than there are": ({"num_hidden_layers": 99}, "is missing; expected shape"),
    "fewer layers than there are": ({"num_hidden_layers": 1}, "unknown tensors"),
    "another width": ({"intermediate_size": 8}, "config.json asks for"),
}


@pytest.mark.parametrize(("changes", "said"), CONFIGS.values(), ids=CONFIGS)
def test_config_json_that_does_not_fit(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    line = fault(copy_model(tmp_path, **changes))
    assert said in line and "docs/models.md" in line


MEMORY: dict[str, tuple[dict[str, Any], str]] = {
    "a buffer that is larger than the machine": ({"kv_cache_bytes": 1 << 50}, "takes 1125899906"),
    "a buffer that holds no request": ({"kv_cache_tokens": 64}, "one request of max_model_len 2048 needs 128 blocks"),
    "more than the model's length": ({"max_model_len": 1 << 20}, "the model allows 1 .. 2048"),
    "a limit above the length": ({"max_model_len": 64, "max_tokens_limit": 65}, "allowed is 1 .. 64"),
    "a share of a GPU": ({"kv_cache_fraction": 0.5}, "the device is the CPU"),
}


@pytest.mark.parametrize(("keys", "said"), MEMORY.values(), ids=MEMORY)
def test_memory_that_cannot_be_had(keys: dict[str, Any], said: str) -> None:
    line = fault(path_of("llama-demo"), **keys)
    assert line.startswith("fail memory: ") and said in line and "docs/configuration.md" in line


def test_a_gpu_that_is_not_there() -> None:
    if torch.cuda.is_available():
        pytest.skip("there is one")
    (answer,) = answer_to([ModelQuestion("m", str(path_of("llama-demo")), ModelJson(device="cuda"))]).models
    (line,) = at_level(answer.checks, "fail")
    assert "torch sees no GPU" in line


def stand_in_gpu(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    """What torch would say of one."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device=None: (free, 141 * GIB))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "NVIDIA H200")


def test_the_arithmetic_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_gpu(monkeypatch, 100 * GIB)
    answer = answer_to([ModelQuestion("m", str(path_of("llama-demo")), ModelJson())])
    assert at_level(answer.engine, "fail") == []
    assert any("NVIDIA H200, 100.0 GiB of 141.0 GiB free" in check.found for check in answer.engine)
    memory = answer.models[0].checks[-1]
    assert memory.level == "ok" and "100.0 GiB free on the GPU" in memory.found and "max_rows 256" in memory.found


def test_a_gpu_that_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_gpu(monkeypatch, 1 << 20)
    answer = answer_to([ModelQuestion("m", str(path_of("llama-demo")), ModelJson())])
    (line,) = at_level(answer.models[0].checks, "fail")
    assert "the weights take" in line and "of the GPU are free" in line


def test_a_gpu_without_the_language_of_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_gpu(monkeypatch, GIB)
    monkeypatch.setitem(sys.modules, "triton", None)
    (line,) = at_level(answer_to([]).engine, "fail")
    assert "triton: " in line and "pip install 'triton>=3.6'" in line


@pytest.mark.parametrize(
    ("free", "level", "said"),
    [
        (4 * GIB, "ok", "are left"),
        (700 << 20, "warn", "Triton and the fronts need some too"),
        (175 << 20, "fail", "too much"),
    ],
)
def test_the_rest_is_judged(monkeypatch: pytest.MonkeyPatch, free: int, level: str, said: str) -> None:
    monkeypatch.setattr(model_probe, "available_bytes", lambda: free)
    memory = looked_at(path_of("llama-demo"))[-1]
    assert (memory.level, memory.name) == (level, "memory")
    assert said in str(memory)


def test_models_of_one_server_share_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_probe, "available_bytes", lambda: 300 << 20)
    questions = [ModelQuestion(name, str(path_of("llama-demo")), ModelJson(device="cpu")) for name in ("a", "b")]
    first, second = (answer.checks[-1] for answer in answer_to(questions).models)
    assert (first.level, second.level) == ("warn", "fail")
    assert "beside the models before it" in str(second) or "are free beside" in str(second)


def limited(folder: Path, files: dict[str, str]) -> int:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    meminfo = folder / "meminfo"
    meminfo.write_text("MemTotal: 100 kB\nMemAvailable:    8388608 kB\n")
    return available_bytes(meminfo, folder)


def test_a_containers_limit_counts(tmp_path: Path) -> None:
    assert limited(tmp_path / "none", {"memory.max": "max\n", "memory.current": "5"}) == 8 * GIB
    v2 = {"memory.max": f"{2 * GIB}", "memory.current": f"{GIB}", "memory.stat": f"anon 1\ninactive_file {GIB // 2}\n"}
    assert limited(tmp_path / "v2", v2) == GIB + GIB // 2
    v1 = {
        "memory/memory.limit_in_bytes": f"{2 * GIB}",
        "memory/memory.usage_in_bytes": f"{GIB}",
        "memory/memory.stat": f"total_inactive_file {GIB // 4}\n",
    }
    assert limited(tmp_path / "v1", v1) == GIB + GIB // 4
    assert limited(tmp_path / "full", {"memory.max": "5", "memory.current": "7"}) == 0
