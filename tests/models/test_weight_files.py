"""Weight files: shards equal a single file; what is missing, misshapen, surplus or broken fails the load by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hf_models import SHAPES, make, save
from paged import Paged
from safetensors.torch import load_file, save_file

from flover_backend.errors import ConfigError
from flover_backend.models.batch import Model
from flover_backend.models.load import load_model, resolve_dtype

Tensors = dict[str, torch.Tensor]
FILE, INDEX = "model.safetensors", "model.safetensors.index.json"
O_PROJ = "model.layers.1.self_attn.o_proj.weight"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return save(make(SHAPES["llama-gqa"]), tmp_path / "model")


@pytest.fixture
def tied(tmp_path: Path) -> Path:
    return save(make(SHAPES["llama-mqa-tied"]), tmp_path / "tied")


def _load(path: Path) -> Model:
    return load_model(path, "auto", "cpu", lambda stage, fraction: None)


def _edit(path: Path, edit: Callable[[Tensors], object]) -> None:
    tensors = load_file(path / FILE)
    edit(tensors)
    save_file(tensors, path / FILE)


def _fails(path: Path, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        _load(path)
    assert str(path) in str(caught.value)


def test_shards_equal_a_single_file(directory: Path, tmp_path: Path) -> None:
    sharded = save(make(SHAPES["llama-gqa"]), tmp_path / "sharded", max_shard_size="100KB")
    assert len(list(sharded.glob("*.safetensors"))) > 2 and (sharded / INDEX).exists()
    work = [(0, [5, 6, 7])]
    assert torch.equal(Paged(_load(sharded), 1, 16).run(work)[0], Paged(_load(directory), 1, 16).run(work)[0])


def test_progress_rises_to_one(directory: Path) -> None:
    seen: list[tuple[str, float]] = []
    load_model(directory, "float32", "cpu", lambda stage, fraction: seen.append((stage, fraction)))
    fractions = [fraction for _, fraction in seen]
    assert fractions == sorted(fractions) and fractions[-1] == 1 and fractions[0] < 0.1
    assert {stage for stage, _ in seen} == {"weights"}


@pytest.mark.parametrize("name", [O_PROJ, "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"])
def test_missing_tensor(directory: Path, name: str) -> None:
    _edit(directory, lambda tensors: tensors.pop(name))
    _fails(directory, f"tensor {name} is missing; expected shape")


def test_misshapen_tensor(directory: Path) -> None:
    _edit(directory, lambda tensors: tensors.update({O_PROJ: torch.zeros(64, 63)}))
    _fails(directory, rf"tensor {O_PROJ} has shape \[64, 63\]; config.json asks for \[64, 64\]")


def test_config_of_another_model(directory: Path) -> None:
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"num_key_value_heads": 4}))
    _fails(directory, r"k_proj.weight has shape \[32, 64\]; config.json asks for \[64, 64\]")


def test_surplus_tensors(directory: Path) -> None:
    _edit(
        directory, lambda tensors: tensors.update({f"model.layers.{i}.x.weight": torch.zeros(2) for i in range(3, 10)})
    )
    _fails(directory, r"unknown tensors model.layers.3.x.weight, .* and 2 more")


def test_surplus_bias_is_not_dropped(directory: Path) -> None:
    _edit(directory, lambda tensors: tensors.update({"model.layers.0.self_attn.q_proj.bias": torch.zeros(64)}))
    _fails(directory, "unknown tensors model.layers.0.self_attn.q_proj.bias")


def test_harmless_leftovers(directory: Path) -> None:
    names = ("rotary_emb.inv_freq", "attn.bias", "attn.masked_bias")
    leftovers = {f"model.layers.0.self_attn.{name}": torch.zeros(3) for name in names}
    _edit(directory, lambda tensors: tensors.update(leftovers))
    assert _load(directory).num_layers == 3


def test_names_without_their_prefix(directory: Path) -> None:
    work = [(0, [5, 6, 7])]
    expected = Paged(_load(directory), 1, 16).run(work)[0]

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)

    _edit(directory, rename)
    assert torch.equal(Paged(_load(directory), 1, 16).run(work)[0], expected)


def test_tied_head_may_be_in_the_file(tied: Path) -> None:
    _edit(tied, lambda tensors: tensors.update({"lm_head.weight": tensors["model.embed_tokens.weight"].clone()}))
    assert _load(tied).vocab_size == 307


def test_dtype_that_is_no_float(directory: Path) -> None:
    _edit(directory, lambda tensors: tensors.update({O_PROJ: torch.zeros(64, 64, dtype=torch.int8)}))
    _fails(directory, rf"tensor {O_PROJ} is torch.int8; allowed: float32, float16, bfloat16")


@pytest.mark.parametrize("keep", [0, 5, 100, 20_000, -1])
def test_truncated_file(directory: Path, keep: int) -> None:
    file = directory / FILE
    file.write_bytes(file.read_bytes()[:keep])
    _fails(directory, "truncated, or not a safetensors file")


@pytest.mark.parametrize(
    "content", [b"GGUF" + bytes(1000), b"\xff" * 1000, b"version https://git-lfs.github.com/spec/v1"]
)
def test_file_of_another_kind(directory: Path, content: bytes) -> None:
    (directory / FILE).write_bytes(content)
    _fails(directory, "truncated, or not a safetensors file")


def test_no_weights(directory: Path) -> None:
    (directory / FILE).unlink()
    _fails(directory, f"holds no weights; expected {FILE}, or shards with {INDEX}")
    (directory / "pytorch_model.bin").write_bytes(b"")
    _fails(directory, "pytorch_model.bin is a pickle file: convert it to safetensors")


def test_missing_shard(tmp_path: Path) -> None:
    path = save(make(SHAPES["llama-gqa"]), tmp_path / "model", max_shard_size="100KB")
    shard = sorted(path.glob("*.safetensors"))[1]
    shard.unlink()
    _fails(path, f"{shard.name} is missing")


def test_index_that_names_what_no_shard_holds(tmp_path: Path) -> None:
    path = save(make(SHAPES["llama-gqa"]), tmp_path / "model", max_shard_size="100KB")
    index = json.loads((path / INDEX).read_text())
    index["weight_map"]["model.extra.weight"] = sorted(path.glob("*.safetensors"))[0].name
    (path / INDEX).write_text(json.dumps(index))
    _fails(path, "names tensor model.extra.weight, which no shard holds")


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {"a": "../other/model.safetensors"}}',
        '{"weight_map": {"a": 1}}',
    ],
)
def test_broken_index(directory: Path, content: str) -> None:
    (directory / FILE).unlink()
    (directory / INDEX).write_text(content)
    _fails(directory, "index")


def test_unknown_dtype_name(directory: Path) -> None:
    with pytest.raises(ConfigError, match="dtype = 'int4'; allowed: auto, float32, float16, bfloat16"):
        load_model(directory, "int4", "cpu", lambda stage, fraction: None)


@pytest.mark.parametrize("in_config", [True, False])
def test_auto_dtype_elsewhere_is_the_checkpoints(tmp_path: Path, in_config: bool) -> None:
    path = save(make(SHAPES["llama-gqa"], torch.bfloat16), tmp_path / "model")
    if not in_config:
        config = json.loads((path / "config.json").read_text())
        (path / "config.json").write_text(json.dumps({k: v for k, v in config.items() if k != "dtype"}))
    assert resolve_dtype("auto", torch.device("cuda"), path) == torch.bfloat16
    assert resolve_dtype("float16", torch.device("cuda"), path) == torch.float16
    assert resolve_dtype("auto", torch.device("cpu"), path) == torch.float32
