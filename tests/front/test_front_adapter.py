"""TritonPythonModel as Triton's stub uses it, with fakes for the stub and the engine's client."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from adapter_host import AttachedClient, arguments
from fake_triton import InferenceRequest, Logger, TritonModelException, strings
from triton_utils import load_triton_utils

from flover_backend.errors import ConfigError, EngineFailed
from flover_backend.request import FinishReason

FAKES = Path(__file__).parent


def test_a_request_from_execute_to_final(adapter: ModuleType, tmp_path: Path) -> None:
    model = adapter.TritonPythonModel()
    model.initialize(arguments(tmp_path))
    client = AttachedClient.made[0]
    request = InferenceRequest({"text_input": strings("Once"), "stream": np.array([True])}, {"max_tokens": "2"})
    model.execute([request])
    submitted = client.wait_submitted()
    client.handler.on_tokens(submitted.key, 0, [40], FinishReason.NONE, None)
    client.handler.on_tokens(submitted.key, 0, [41], FinishReason.LENGTH, None)
    assert [i for r in request.sender.wait() for i in r.outputs["output_ids"].tolist()] == [40, 41]
    model.finalize()
    assert client.is_closed


def test_inputs_are_copied_out(adapter: ModuleType, tmp_path: Path) -> None:
    model = adapter.TritonPythonModel()
    model.initialize(arguments(tmp_path))
    array = np.array([5, 6], np.int32)
    model.execute([InferenceRequest({"input_ids": array})])
    array[:] = 9
    assert AttachedClient.made[0].wait_submitted().prompt_ids == [5, 6]
    model.finalize()


def test_the_model_file_gives_triton_the_class(adapter: ModuleType) -> None:
    path = Path(adapter.__file__ or "").parents[2] / "model_repository" / "flover" / "1" / "model.py"
    spec = importlib.util.spec_from_file_location("model", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.TritonPythonModel is adapter.TritonPythonModel
    assert len(path.read_text().splitlines()) < 10


def test_auto_completion(adapter: ModuleType) -> None:
    config = load_triton_utils().ModelConfig(json.dumps({"name": "x", "max_batch_size": 0, "input": [], "output": []}))
    assert adapter.TritonPythonModel.auto_complete_config(config).as_dict()["input"]


def test_the_effective_configuration_is_logged_once_a_model(adapter: ModuleType, tmp_path: Path) -> None:
    first = arguments(tmp_path, '{"max_rows": 8}')
    models = []
    for name in ("flover_0_0", "flover_0_1"):
        models.append(adapter.TritonPythonModel())
        models[-1].initialize({**first, "model_instance_name": name})
    lines = [line for _, line in Logger.lines if "effective configuration" in line]
    assert len(lines) == 1
    assert "max_rows=8" in lines[0] and "max_model_len=128" in lines[0]
    for model in models:
        model.finalize()


@pytest.mark.parametrize(
    ("model_json", "said"),
    [
        ('{"modle": "x"}', "modle"),
        ('{"max_rows": 0}', "max_rows"),
        ("{", "model.json"),
        ('{"model": "/no/such/dir"}', "/no/such/dir is no directory"),
        ('{"model": "gpt-17"}', "llama-demo"),
        ('{"kv_cache_bytes": 1, "kv_cache_tokens": 1}', "kv_cache_bytes and kv_cache_tokens"),
    ],
)
def test_a_wrong_configuration_fails_the_load(adapter: ModuleType, tmp_path: Path, model_json: str, said: str) -> None:
    with pytest.raises(TritonModelException, match=said):
        adapter.TritonPythonModel().initialize(arguments(tmp_path, model_json))
    assert not AttachedClient.made


def test_a_config_without_tensors_fails_the_load_with_the_text_to_paste(adapter: ModuleType, tmp_path: Path) -> None:
    wrong = arguments(tmp_path) | {"model_config": json.dumps({"name": "flover", "input": [], "output": []})}
    with pytest.raises(TritonModelException, match=r'paste this:\nname: "flover"\nbackend: "python"'):
        adapter.TritonPythonModel().initialize(wrong)


@pytest.mark.parametrize("failure", [ConfigError("no config.json there"), EngineFailed("it ended")])
def test_an_engine_that_does_not_start_fails_the_load(adapter: ModuleType, tmp_path: Path, failure: Exception) -> None:
    AttachedClient.failure_at_connect = failure
    with pytest.raises(TritonModelException, match=str(failure)):
        adapter.TritonPythonModel().initialize(arguments(tmp_path))


def test_a_model_relative_to_the_version_folder(adapter: ModuleType, tmp_path: Path) -> None:
    first = arguments(tmp_path, '{"model": "weights"}')
    (tmp_path / "1" / "weights").mkdir()
    model = adapter.TritonPythonModel()
    model.initialize(first)
    assert AttachedClient.made[0].spec.model_dir == (tmp_path / "1" / "weights").resolve()
    model.finalize()


def test_numpy_2_in_a_stub_that_misreads_it_fails_the_load(
    adapter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(np, "__version__", "2.1.0")
    with pytest.raises(TritonModelException, match=r"numpy 2\.1\.0.*numpy<2"):
        adapter.TritonPythonModel().initialize(arguments(tmp_path))


def test_the_front_imports_no_torch() -> None:
    code = (
        f"import sys; sys.path[:0] = [{str(FAKES)!r}]\n"
        "import fake_triton; fake_triton.install(fake_triton.make_module(fake_triton.Registry()))\n"
        "import flover_backend.front.adapter\n"
        "heavy = [name for name in ('torch', 'transformers', 'safetensors') if name in sys.modules]\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
