"""Small LLaMA-family GGUF files: what comes out is the model that went in; quantized types; hash, atomic, no-op."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from flover_backend.importer.gguf import STAMP, import_gguf
from flover_backend.importer.rope import llama3_factors
from flover_backend.importer.source import GGUFError
from tests.importer.gguf_files import TEXT, GGUFFile, Q
from tests.models.hf_models import LLAMA3, SHAPES, Shape, make

LLAMA3_PUBLISHED = LLAMA3 | {"original_max_position_embeddings": 8192}
MODELS = {
    **{name: SHAPES[name] for name in ("llama-gqa", "llama-mha-untied", "llama-head-dim", "llama-biases")},
    **{name: SHAPES[name] for name in ("mistral", "qwen2", "qwen3")},
    "llama-llama3-rope": Shape("Llama", {"rope_parameters": LLAMA3_PUBLISHED}),
}


def _file(path: Path, shape: Shape = SHAPES["llama-gqa"]) -> GGUFFile:
    file = GGUFFile(make(shape))
    if shape.keys.get("rope_parameters"):
        file.tensors["rope_freqs.weight"] = _factors_by_transformers(shape)
    return file


def _factors_by_transformers(shape: Shape) -> np.ndarray:
    model = make(shape)
    plain = LLAMA3["rope_theta"] ** (-torch.arange(0, model.config.head_dim, 2) / model.config.head_dim)
    return (plain / model.model.rotary_emb.inv_freq).float().numpy()


@pytest.mark.parametrize("name", MODELS)
def test_the_same_model_comes_out(name: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    original = make(MODELS[name])
    folder = import_gguf(_file(tmp_path, MODELS[name]).write(tmp_path / "m.gguf"), tmp_path / "m")
    imported = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    state = imported.state_dict()
    assert all(torch.equal(state[key], value) for key, value in original.state_dict().items())
    ids = torch.randint(0, 307, (1, 90), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(imported(ids).logits, original(ids).logits, atol=2e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_our_models_load_it(name: str, tmp_path: Path) -> None:
    from flover_backend.models.load import load_model
    from tests.models.paged import Paged

    folder = import_gguf(_file(tmp_path, MODELS[name]).write(tmp_path / "m.gguf"), tmp_path / "m")
    ours = load_model(folder, "float32", "cpu", lambda stage, fraction: None)
    ids = torch.randint(0, 307, (90,), generator=torch.Generator().manual_seed(0))
    expected = make(MODELS[name])(ids[None]).logits[0]
    torch.testing.assert_close(Paged(ours, 1, 90).run([(0, ids.tolist())])[0], expected, atol=2e-4, rtol=0)
    assert ours.eos_token_ids == (2,)


QUANTIZED = ["F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "TQ1_0", "MXFP4", "Q2_K", "Q4_K", "Q6_K", "IQ4_XS"]


@pytest.mark.parametrize("kind", QUANTIZED)
def test_quantized_types_as_transformers_reads_them(kind: str, tmp_path: Path) -> None:
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    model = make(Shape("Llama", {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 1}))
    file = GGUFFile(model)
    file.types = dict.fromkeys((name for name, values in file.tensors.items() if values.ndim == 2), Q[kind])
    path = file.write(tmp_path / "m.gguf")
    ours = load_file(import_gguf(path, tmp_path / "m") / "model.safetensors")
    theirs = load_gguf_checkpoint(str(path), return_tensors=True, model_to_load=model)["tensors"]
    assert sorted(ours) == sorted(theirs)
    assert all(torch.equal(ours[name].view(torch.int32), theirs[name].view(torch.int32)) for name in ours)


def test_values_beyond_float16(tmp_path: Path) -> None:
    file = _file(tmp_path)
    file.tensors["output_norm.weight"][0] = 65520
    with pytest.raises(GGUFError, match=r"output_norm.weight holds 65520.* beyond float16; .* float32 or bfloat16"):
        import_gguf(file.write(tmp_path / "m.gguf"), tmp_path / "m", "float16")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_rounded_to_dtype(dtype: str, tmp_path: Path) -> None:
    file = _file(tmp_path)
    file.tensors["output_norm.weight"][:5] = [np.inf, np.nan, -np.inf, 1e-40, 65519]
    path = file.write(tmp_path / "m.gguf")
    exact = load_file(import_gguf(path, tmp_path / "exact") / "model.safetensors")
    rounded = load_file(import_gguf(path, tmp_path / "rounded", dtype) / "model.safetensors")
    for name, values in exact.items():
        expected = values.to(getattr(torch, dtype))
        assert rounded[name].dtype == expected.dtype
        torch.testing.assert_close(rounded[name], expected, rtol=0, atol=0, equal_nan=True)
    assert json.loads((tmp_path / "rounded" / "config.json").read_text())["dtype"] == dtype


def test_llama3_factors_are_transformers(tmp_path: Path) -> None:
    expected = _factors_by_transformers(Shape("Llama", {"rope_parameters": LLAMA3_PUBLISHED}))
    np.testing.assert_allclose(llama3_factors(LLAMA3["rope_theta"], 16, 8.0), expected, rtol=1e-5)


def test_second_import_does_nothing(tmp_path: Path) -> None:
    path = _file(tmp_path).write(tmp_path / "m.gguf")
    import_gguf(path, tmp_path / "m")
    before = {file.name: file.stat().st_mtime_ns for file in (tmp_path / "m").iterdir()}
    import_gguf(path, tmp_path / "m")
    assert {file.name: file.stat().st_mtime_ns for file in (tmp_path / "m").iterdir()} == before
    assert json.loads((tmp_path / "m" / STAMP).read_text())["gguf"] == "m.gguf"


@pytest.mark.parametrize("change", ["file", "dtype", "weights cut short", "config gone"])
def test_imports_again_when_something_changed(change: str, tmp_path: Path) -> None:
    file = _file(tmp_path)
    folder = import_gguf(file.write(tmp_path / "m.gguf"), tmp_path / "m")
    if change == "file":
        file.tensors["output_norm.weight"] += 1
        file.write(tmp_path / "m.gguf")
    if change == "weights cut short":
        (folder / "model.safetensors").write_bytes(b"")
    if change == "config gone":
        (folder / "config.json").unlink()
    import_gguf(tmp_path / "m.gguf", folder, "float16" if change == "dtype" else "float32")
    norm = load_file(folder / "model.safetensors")["model.norm.weight"]
    assert norm.dtype == (torch.float16 if change == "dtype" else torch.float32)
    if change == "file":
        assert torch.equal(norm, torch.from_numpy(file.tensors["output_norm.weight"]))
    assert (folder / "config.json").is_file()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["m", "m.gguf"]


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    def fail(what: str, done: int, total: int) -> None:
        if what == "weights" and done == 3:
            raise KeyboardInterrupt

    path = _file(tmp_path).write(tmp_path / "m.gguf")
    with pytest.raises(KeyboardInterrupt):
        import_gguf(path, tmp_path / "m", progress=fail)
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.gguf"]


def test_a_foreign_directory_is_left_alone(tmp_path: Path) -> None:
    path = _file(tmp_path).write(tmp_path / "m.gguf")
    (tmp_path / "mine").mkdir()
    import_gguf(path, tmp_path / "mine")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("dear")
    with pytest.raises(GGUFError, match="home exists and was not made by an import"):
        import_gguf(path, tmp_path / "home")
    assert [entry.name for entry in (tmp_path / "home").iterdir()] == ["letter.txt"]


def test_tokenizer_and_settings_come_over(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    file = _file(tmp_path)
    file.metadata |= {
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.eot_token_id": 5,
        "tokenizer.chat_template": "{{ messages }}",
    }
    folder = import_gguf(file.write(tmp_path / "m.gguf"), tmp_path / "m")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer(TEXT).input_ids[0] == 1
    assert tokenizer.decode(tokenizer(TEXT).input_ids, skip_special_tokens=True) == TEXT
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert tokenizer.chat_template == "{{ messages }}"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [2, 5]
    assert json.loads((folder / "config.json").read_text())["eos_token_id"] == [2, 5]


def test_named_chat_templates_become_a_list(tmp_path: Path) -> None:
    file = _file(tmp_path)
    file.metadata |= {
        "tokenizer.chat_template": "D",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "T",
    }
    folder = import_gguf(file.write(tmp_path / "m.gguf"), tmp_path / "m")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    expected = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    assert settings["chat_template"] == expected
