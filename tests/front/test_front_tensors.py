"""The tensor table, the shipped config.pbtxt and auto-completion are one thing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from triton_utils import load_triton_utils

from flover_backend.errors import ConfigError
from flover_backend.front.tensors import INPUTS, OUTPUTS, check_model_config, complete, config_pbtxt

ROOT = Path(__file__).resolve().parents[2]


def completed() -> dict[str, Any]:
    """The configuration that Triton's own ModelConfig class makes of an empty one."""
    empty = json.dumps({"name": "flover", "max_batch_size": 0, "input": [], "output": []})
    config: dict[str, Any] = complete(load_triton_utils().ModelConfig(empty)).as_dict()
    return config


def test_the_shipped_config_is_made_from_the_table() -> None:
    assert (ROOT / "model_repository" / "flover" / "config.pbtxt").read_text() == config_pbtxt()


def test_the_shipped_model_py_is_the_packages() -> None:
    shipped = ROOT / "model_repository" / "flover" / "1" / "model.py"
    assert shipped.read_text() == (ROOT / "flover_backend" / "front" / "model.py").read_text()


def test_auto_completion_declares_the_table() -> None:
    config = completed()
    assert [entry["name"] for entry in config["input"]] == [spec.name for spec in INPUTS]
    assert [entry["name"] for entry in config["output"]] == [spec.name for spec in OUTPUTS]
    assert all(entry["optional"] for entry in config["input"])
    assert config["max_batch_size"] == 0
    assert config["model_transaction_policy"] == {"decoupled": True}


def test_no_tensor_is_named_stop() -> None:
    assert all(spec.name != "stop" for spec in INPUTS)


def test_a_complete_config_is_accepted() -> None:
    check_model_config(completed())


def test_a_config_without_tensors_is_refused_with_the_text_to_paste() -> None:
    with pytest.raises(ConfigError) as error:
        check_model_config({"name": "other", "input": [], "output": []})
    assert "no inputs are declared" in str(error.value)
    assert config_pbtxt("other") in str(error.value)


def test_the_text_to_paste_keeps_the_backend_and_the_instances() -> None:
    groups = [{"kind": "KIND_MODEL", "count": 3}, {"kind": "KIND_MODEL", "count": 1}]
    with pytest.raises(ConfigError) as error:
        check_model_config({"name": "other", "backend": "flover", "instance_group": groups, "input": [], "output": []})
    assert config_pbtxt("other", 4, "flover") in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["input"].pop(0), "input 'text_input' is missing"),
        (lambda c: c["input"].append({"name": "stop", "data_type": "TYPE_STRING", "dims": [1]}), "'stop' is unknown"),
        (lambda c: c["input"][1].update(data_type="TYPE_INT64"), "input 'input_ids' is TYPE_INT64"),
        (lambda c: c["input"][1].update(optional=False), "input 'input_ids' must be optional"),
        (lambda c: c["output"][0].update(dims=["1"]), "output 'text_output' is TYPE_STRING"),
        (lambda c: c["model_transaction_policy"].update(decoupled=False), "decoupled is false"),
        (lambda c: c.update(max_batch_size=8), "max_batch_size is 8"),
    ],
)
def test_a_config_that_differs_is_refused(change: Any, said: str) -> None:
    config = completed()
    change(config)
    with pytest.raises(ConfigError, match=said):
        check_model_config(config)


def test_dims_may_be_strings_as_triton_writes_them() -> None:
    config = completed()
    for entry in config["input"] + config["output"]:
        entry["dims"] = [str(dim) for dim in entry["dims"]]
    check_model_config(config)
