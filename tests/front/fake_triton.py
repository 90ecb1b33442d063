"""What the stub adds to `triton_python_backend_utils`, as far as a front uses it, with Triton's rules as assertions."""

from __future__ import annotations

import json
import sys
import threading
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

FINAL = 1


class Tensor:
    def __init__(self, name: str, array: np.ndarray) -> None:
        assert isinstance(array, np.ndarray)
        self._name, self._array = name, array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> np.ndarray:
        return self._array


class TritonError(Exception):
    UNKNOWN, INTERNAL, NOT_FOUND, INVALID_ARG, UNAVAILABLE, UNSUPPORTED, ALREADY_EXISTS, CANCELLED = range(8)

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        super().__init__(message)
        self.code = code


class TritonModelException(Exception):
    pass


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor], error: TritonError | None = None) -> None:
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}
        self.error = error
        self.sent = False


class ResponseSender:
    """Keeps what was sent. `hold` makes sends wait; `fail_sends` makes so many raise."""

    def __init__(self) -> None:
        self.responses: list[InferenceResponse] = []
        self.finals = 0
        self.cancelled = False
        self.hold: threading.Event | None = None
        self.fail_sends = 0
        self.done = threading.Event()
        self.some = threading.Condition()

    def send(self, response: InferenceResponse | None = None, flags: int = 0) -> None:
        assert response is not None, "this backend sends no empty responses"
        assert self.finals == 0, "a response after FINAL"
        assert not response.sent, "a response object was used twice"
        response.sent = True
        if self.hold is not None:
            assert self.hold.wait(10)
        if self.fail_sends:
            self.fail_sends -= 1
            raise TritonModelException("the fake sender fails")
        with self.some:
            self.responses.append(response)
            self.finals += flags == FINAL
            self.some.notify_all()
        if flags == FINAL:
            self.done.set()

    def is_cancelled(self) -> bool:
        assert self.finals == 0, "is_cancelled after FINAL"
        return self.cancelled

    def wait(self) -> list[InferenceResponse]:
        """All responses, once FINAL has come."""
        assert self.done.wait(10), f"no FINAL; {len(self.responses)} responses"
        assert self.finals == 1
        return self.responses

    def wait_for(self, count: int) -> None:
        with self.some:
            assert self.some.wait_for(lambda: len(self.responses) >= count, 10), f"only {len(self.responses)}"

    def error(self) -> TritonError:
        """The error of a request that got nothing else."""
        (response,) = self.wait()
        assert response.error is not None and not response.outputs
        return response.error


@dataclass
class InferenceRequest:
    arrays: dict[str, np.ndarray]
    request_parameters: dict[str, Any] = field(default_factory=dict)
    requested: tuple[str, ...] = ("text_output", "output_ids")
    sender: ResponseSender = field(default_factory=ResponseSender)
    timeout_us: int = 0
    id: str = "r1"

    def timeout(self) -> int:
        return self.timeout_us

    def inputs(self) -> list[Tensor]:
        return [Tensor(name, array) for name, array in self.arrays.items()]

    def request_id(self) -> str:
        return self.id

    def parameters(self) -> str:
        return json.dumps(self.request_parameters)

    def requested_output_names(self) -> list[str]:
        return list(self.requested)

    def get_response_sender(self) -> ResponseSender:
        return self.sender


class Metric:
    def __init__(self) -> None:
        self._value = 0.0

    def increment(self, value: float) -> None:
        assert value >= 0
        self._value += value

    def set(self, value: float) -> None:
        self._value = value

    def value(self) -> float:
        return self._value


class Registry:
    """Triton's registry of metrics, which all fronts of a server share."""

    def __init__(self) -> None:
        self.metrics: dict[tuple[str, tuple[tuple[str, str], ...]], Metric] = {}
        self.kinds: dict[str, str] = {}

    def family_class(self) -> type:
        registry = self

        class MetricFamily:
            COUNTER, GAUGE = "counter", "gauge"

            def __init__(self, name: str, description: str, kind: str) -> None:
                assert description
                assert registry.kinds.setdefault(name, kind) == kind
                self._name = name

            def Metric(self, labels: dict[str, str]) -> Metric:
                key = (self._name, tuple(sorted(labels.items())))
                return registry.metrics.setdefault(key, Metric())

        return MetricFamily

    def value(self, name: str, **labels: str) -> float:
        labels = {"model": "flover", "version": "1", **labels}
        return self.metrics[name, tuple(sorted(labels.items()))].value()


class Logger:
    lines: ClassVar[list[tuple[str, str]]] = []

    @classmethod
    def log_info(cls, line: str) -> None:
        cls.lines.append(("info", line))

    @classmethod
    def log_warn(cls, line: str) -> None:
        cls.lines.append(("warn", line))

    @classmethod
    def log_error(cls, line: str) -> None:
        cls.lines.append(("error", line))


def make_module(registry: Registry) -> Any:
    """A module object as `import triton_python_backend_utils` gives it in a stub."""
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor = Tensor
    module.TritonError = TritonError
    module.TritonModelException = TritonModelException
    module.InferenceResponse = InferenceResponse
    module.TRITONSERVER_RESPONSE_COMPLETE_FINAL = FINAL
    module.MetricFamily = registry.family_class()
    module.Logger = Logger
    return module


def install(module: Any) -> None:
    sys.modules["triton_python_backend_utils"] = module


def strings(*values: str | bytes) -> np.ndarray:
    """A STRING tensor."""
    return np.array([v.encode() if isinstance(v, str) else v for v in values], dtype=np.object_)
