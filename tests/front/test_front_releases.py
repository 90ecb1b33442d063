"""What releases of Triton have that 24.10 lacks, or the other way round: found out at run time, here from the fake."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from adapter_host import AttachedClient, RecordedEnd, arguments
from fake_triton import InferenceRequest, Registry, make_module, strings

from flover_backend.channel import Status
from flover_backend.errors import ConfigError
from flover_backend.front.numpy_check import check_numpy

DRAINING = Status(num_waiting_requests=0, num_waiting_tokens=0, accepting=False, draining=True)
FULL = Status(num_waiting_requests=4, num_waiting_tokens=40, accepting=False, draining=False)


@pytest.fixture
def model(adapter: ModuleType, tmp_path: Path) -> Any:
    model = adapter.TritonPythonModel()
    model.initialize(arguments(tmp_path))
    yield model
    model.finalize()


def test_is_ready_while_the_engine_serves_also_with_a_full_queue(model: Any) -> None:
    assert model.is_ready() is True
    AttachedClient.made[0].handler.on_status(FULL)
    assert model.is_ready() is True


def test_is_not_ready_once_the_engine_drains(model: Any) -> None:
    AttachedClient.made[0].handler.on_status(DRAINING)
    assert model.is_ready() is False


def test_is_not_ready_once_the_engine_has_failed(model: Any) -> None:
    AttachedClient.made[0].handler.on_failed("the engine process is gone")
    assert model.is_ready() is False
    assert RecordedEnd.called == ["flover"]


def test_is_not_ready_after_finalize(adapter: ModuleType, tmp_path: Path) -> None:
    """A server that asks once more while it unloads gets an answer."""
    model = adapter.TritonPythonModel()
    model.initialize(arguments(tmp_path))
    model.finalize()
    assert model.is_ready() is False


def test_a_request_of_a_server_that_knows_no_timeout(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(InferenceRequest, "timeout")
    model.execute([InferenceRequest({"text_input": strings("Once")})])
    assert AttachedClient.made[0].wait_submitted().deadline is None


def test_a_requests_timeout_reaches_the_engine(model: Any) -> None:
    model.execute([InferenceRequest({"text_input": strings("Once")}, timeout_us=2_000_000)])
    request = AttachedClient.made[0].wait_submitted()
    assert request.deadline is not None
    assert request.deadline - request.arrival_time == pytest.approx(2)


@pytest.mark.parametrize("missing", ["MetricFamily", "Logger"])
def test_a_stub_without_a_feature_still_loads(
    adapter: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    monkeypatch.delattr(adapter.pb_utils, missing)
    model = adapter.TritonPythonModel()
    model.initialize(arguments(tmp_path))
    model.execute([InferenceRequest({"text_input": strings("Once")})])
    AttachedClient.made[0].wait_submitted()
    model.finalize()


class Understanding:
    """A Tensor of a stub built for NumPy 2: arrays survive its conversions."""

    def __init__(self, name: str, array: np.ndarray) -> None:
        self._array = array

    def as_numpy(self) -> np.ndarray:
        return self._array

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Understanding:
        return Understanding(name, tensor.as_numpy())


class Misreading(Understanding):
    """Of 24.10's: strides are read as 0."""

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Understanding:
        return Understanding(name, np.full_like(tensor.as_numpy(), tensor.as_numpy()[0]))


@pytest.mark.parametrize(
    ("numpy", "tensor", "loads"),
    [
        ("1.26.4", Misreading, True),
        ("2.1.0", Understanding, True),
        ("2.1.0", Misreading, False),
    ],
)
def test_numpy_is_told_by_what_becomes_of_an_array(
    monkeypatch: pytest.MonkeyPatch, numpy: str, tensor: type, loads: bool
) -> None:
    module = make_module(Registry())
    module.Tensor = tensor
    monkeypatch.setattr(np, "__version__", numpy)
    if loads:
        check_numpy(module)
    else:
        with pytest.raises(ConfigError, match=r"numpy 2\.1\.0.*numpy<2"):
            check_numpy(module)
