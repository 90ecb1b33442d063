"""A repository with one thing wrong at a time: what the doctor says of it, and what it advises."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from live_server import ROOT
from repositories import SHIPPED, at_level, copy_model, make_repository, only_model, shipped_config

from flover_backend.doctor import config_pbtxt
from flover_backend.doctor.repository import find_models, lone_model
from flover_backend.errors import ConfigError


def test_the_shipped_repository_is_good() -> None:
    model = only_model(SHIPPED)
    assert at_level(model.checks, "fail") == at_level(model.checks, "warn") == []
    assert (model.name, model.instances, [version.name for version in model.versions]) == ("flover", 1, ["flover"])
    assert "complete; 1 instance, kind KIND_MODEL" in "\n".join(map(str, model.checks))


@pytest.mark.parametrize(
    ("config", "said"),
    [('backend: "python"\n', "not all is declared: Triton completes it; 1 instance"), ("", "not there: Triton")],
)
def test_what_triton_completes_is_no_fault(tmp_path: Path, config: str, said: str) -> None:
    model = only_model(make_repository(tmp_path, config=config))
    assert at_level(model.checks, "fail") == []
    assert any(said in str(check) for check in model.checks)


CONFIGS = {
    "no pbtxt": ((), "{", "config.pbtxt", "mend it"),
    "an unknown field": ((), "frobnicate: 3", 'no field named "frobnicate"', "mend it"),
    "another name": ((('name: "flover"', 'name: "x"'),), "", "name: 'x', the folder is 'flover'", "leave the name out"),
    "batching by Triton": ((("max_batch_size: 0", "max_batch_size: 8"),), "", "max_batch_size is 8", "leave it out"),
    "not decoupled": ((("decoupled: true", "decoupled: false"),), "", "decoupled is false", "leave it out"),
    "dynamic batching": ((), "dynamic_batching {}", "dynamic_batching is set", "take dynamic_batching out"),
    "an unknown tensor": (
        (("input [", 'input [ { name: "stop", data_type: TYPE_STRING, dims: [ 1 ], optional: true },'),),
        "",
        "input 'stop' is unknown",
        "model_repository/flover/config.pbtxt",
    ),
    "a wrong type": (
        (('"input_ids", data_type: TYPE_INT32', '"input_ids", data_type: TYPE_INT64'),),
        "",
        "input 'input_ids' is TYPE_INT64 [-1], expected TYPE_INT32 [-1]",
        "leave them out",
    ),
    "a tensor that must be given": (
        (("dims: [ 1 ], optional: true", "dims: [ 1 ]"),),
        "",
        "input 'text_input' must be optional",
        "leave them out",
    ),
}


@pytest.mark.parametrize(("changes", "more", "said", "advice"), CONFIGS.values(), ids=CONFIGS)
def test_a_wrong_config(
    tmp_path: Path, changes: tuple[tuple[str, str], ...], more: str, said: str, advice: str
) -> None:
    model = only_model(make_repository(tmp_path, config=shipped_config(*changes) + more))
    (fault,) = at_level(model.checks, "fail")
    assert said in fault and advice in fault


def test_a_config_that_is_no_text(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    (repository / "flover" / "config.pbtxt").write_bytes(b"\xff\xfe\x00")
    (fault,) = at_level(only_model(repository).checks, "fail")
    assert "can't decode" in fault and "mend it" in fault


def test_all_faults_of_a_config_are_told_at_once(tmp_path: Path) -> None:
    config = shipped_config(
        ("max_batch_size: 0", "max_batch_size: 8"), ("decoupled: true", "decoupled: false"), ("KIND_MODEL", "KIND_GPU")
    )
    model = only_model(make_repository(tmp_path, config=config))
    assert len(at_level(model.checks, "fail")) == 2
    (warning,) = at_level(model.checks, "warn")
    assert "KIND_GPU" in warning and "kind: KIND_MODEL" in warning


def test_without_the_schema_the_config_is_not_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config_pbtxt, "MISSING", "tritonclient is not installed")
    model = only_model(SHIPPED)
    (warning,) = at_level(model.checks, "warn")
    assert "tritonclient is not installed" in warning and "pip install" in warning
    assert model.versions


def test_the_backend_flover_needs_its_folder_in_the_server(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, config='backend: "flover"\n')
    (repository / "flover" / "1" / "model.py").unlink()
    assert at_level(only_model(repository, has_backend=True).checks, "fail") == []
    (fault,) = at_level(only_model(repository, has_backend=False).checks, "fail")
    assert "no backends/flover/model.py" in fault and "deploy/install.py" in fault


MODEL_JSON = {
    "no JSON": ("{", "truncated", "docs/configuration.md"),
    "no UTF-8": ('{"model": "\udcff"}', "can't decode", "docs/configuration.md"),
    "an unknown key": ({"max_row": 8}, "unknown field `max_row`", "docs/configuration.md"),
    "out of range": ({"max_rows": 0}, "`$.max_rows`", "docs/configuration.md"),
    "of another type": ({"max_rows": "8"}, "`$.max_rows`", "docs/configuration.md"),
    "two that exclude each other": ({"kv_cache_bytes": 1, "kv_cache_tokens": 1}, "are set together", "configuration"),
    "no such model": ({"model": "/no/such"}, "/no/such is no directory", "mend `model`"),
    "no such interpreter": ({"engine_python": "/no/python"}, "/no/python is no program", "Python 3.10+"),
}


@pytest.mark.parametrize(("model_json", "said", "advice"), MODEL_JSON.values(), ids=MODEL_JSON)
def test_a_wrong_model_json(tmp_path: Path, model_json: object, said: str, advice: str) -> None:
    model = only_model(make_repository(tmp_path, model_json))  # type: ignore[arg-type]
    (fault,) = at_level(model.checks, "fail")
    assert said in fault and advice in fault


@pytest.mark.parametrize(
    ("model_json", "said", "advice"),
    [
        ({"engine_restarts": 0}, "the first death of an engine takes the model out of service", "leave it out"),
        ({"engine_restart_window_s": 30}, "is started again for ever", "give at least 60"),
    ],
)
def test_restarts_that_do_not_help(tmp_path: Path, model_json: object, said: str, advice: str) -> None:
    model = only_model(make_repository(tmp_path, model_json))  # type: ignore[arg-type]
    (warning,) = at_level(model.checks, "warn")
    assert said in warning and advice in warning


def test_tokenizers(tmp_path: Path) -> None:
    directory = copy_model(tmp_path)
    repository = make_repository(tmp_path, {"model": str(directory)})
    (directory / "tokenizer.json").write_text("{}")
    (fault,) = at_level(only_model(repository).checks, "fail")
    assert "not a readable tokenizer.json" in fault
    (directory / "tokenizer.json").unlink()
    (warning,) = at_level(only_model(repository).checks, "warn")
    assert "no tokenizer.json" in warning and "input_ids" in warning


def test_no_version_folder(tmp_path: Path) -> None:
    repository = make_repository(tmp_path, config='backend: "flover"\n')
    shutil.rmtree(repository / "flover" / "1")
    (fault,) = at_level(only_model(repository, has_backend=True).checks, "fail")
    assert "has no version folder that its version_policy serves (it has none)" in fault and "a folder named 1" in fault


@pytest.mark.parametrize(
    ("policy", "served"),
    [
        ("", ["12"]),
        ("version_policy: { latest { num_versions: 2 } }", ["1", "12"]),
        ("version_policy: { all {} }", ["1", "12"]),
        ("version_policy: { specific { versions: [ 1, 3 ] } }", ["1"]),
    ],
)
def test_the_versions_that_triton_serves_are_looked_at(tmp_path: Path, policy: str, served: list[str]) -> None:
    repository = make_repository(tmp_path, config=shipped_config() + policy)
    shutil.copytree(repository / "flover" / "1", repository / "flover" / "12")
    (repository / "flover" / "12" / "model.json").write_text('{"model": "gptj-demo"}')
    (repository / "flover" / "0").mkdir()
    model = only_model(repository)
    models = {"1": "llama-demo", "12": "gptj-demo"}
    assert [version.config.model for version in model.versions] == [models[number] for number in served]
    assert len({version.name for version in model.versions}) == len(served)


def test_other_backends_models_are_left_alone(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    (repository / "resnet" / "1").mkdir(parents=True)
    (repository / "resnet" / "config.pbtxt").write_text('backend: "onnxruntime"\n')
    (repository / "adder" / "1").mkdir(parents=True)
    (repository / "adder" / "config.pbtxt").write_text('backend: "python"\n')
    (repository / "adder" / "1" / "model.py").write_text("class TritonPythonModel: ...\n")
    assert only_model(repository).name == "flover"
    shutil.rmtree(repository / "flover")
    with pytest.raises(ConfigError, match=r"holds no model of this backend \(it holds adder, resnet\)"):
        find_models(repository, has_backend=False)


def test_one_models_folder_will_do() -> None:
    assert only_model(SHIPPED / "flover").name == "flover"


def test_no_repository() -> None:
    with pytest.raises(ConfigError, match="is no directory; --repository takes"):
        find_models(ROOT / "no-such", has_backend=False)


def test_a_model_directory_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    directory = copy_model(tmp_path)
    monkeypatch.chdir(tmp_path)
    (version,) = lone_model("model", 3).versions
    assert (version.model_dir, version.instances) == (directory, 3)
    assert lone_model("gptj-demo", 1).versions
    (fault,) = at_level(lone_model("nothing", 1).checks, "fail")
    assert "nothing is no directory" in fault
