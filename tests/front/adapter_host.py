"""TritonPythonModel as Triton's stub makes it, with fakes for the stub and for the engine's client."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from fake_client import FakeClient
from small_info import INFO
from triton_utils import load_triton_utils

from flover_backend.bundled import path_of
from flover_backend.front.rendezvous import EngineSpec
from flover_backend.front.tensors import complete


def model_config() -> dict[str, Any]:
    empty = json.dumps({"name": "flover", "max_batch_size": 0, "input": [], "output": []})
    config: dict[str, Any] = complete(load_triton_utils().ModelConfig(empty)).as_dict()
    return config


class AttachedClient(FakeClient):
    """Takes the place of EngineSupervisor."""

    made: list[AttachedClient]
    failure_at_connect: Exception | None

    def __init__(self, spec: EngineSpec, front_name: str, log: Any) -> None:
        if self.failure_at_connect is not None:
            raise self.failure_at_connect
        super().__init__(INFO.__class__(**{**asdict(INFO), "model_dir": str(path_of("llama-demo"))}))
        self.spec = spec
        self.made.append(self)

    def start(self, handler: Any) -> None:
        self.handler = handler

    handler: Any = None


class RecordedEnd:
    """Takes the place of OutOfService, which would end this process."""

    called: list[str]
    may_unload = False

    def __init__(self, pb_utils: Any, model: str, *rest: Any) -> None:
        self._model = model

    def __call__(self) -> None:
        self.called.append(self._model)


def asdict(info: Any) -> dict[str, Any]:
    return {name: getattr(info, name) for name in info.__struct_fields__}


def arguments(folder: Path, model_json: str = "{}") -> dict[str, str]:
    version = folder / "1"
    version.mkdir()
    (version / "model.json").write_text(model_json)
    return {
        "model_config": json.dumps(model_config()),
        "model_name": "flover",
        "model_version": "1",
        "model_repository": str(folder),
        "model_instance_name": "flover_0_0",
    }


def adapter_with_fakes(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """front/adapter.py, imported anew with the pb_utils that are installed."""
    module = importlib.import_module("flover_backend.front.adapter")
    module = importlib.reload(module)
    RecordedEnd.called = []
    AttachedClient.made, AttachedClient.failure_at_connect = [], None
    monkeypatch.setattr(module, "EngineSupervisor", AttachedClient)
    monkeypatch.setattr(module, "OutOfService", RecordedEnd)
    return module
