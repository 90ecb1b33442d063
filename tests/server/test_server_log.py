"""What of a server's output `flover serve` shows. The lines are a tritonserver's of 24.10, as it wrote them."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from flover_backend.server_log import ServerLog

TRITON = "I1121 16:08:57.604051 9185 model_lifecycle.cc:839] \"successfully loaded 'flover'\""
READY = 'I1121 16:08:57.547118 9185 logs.py:40] "flover flover_0_0 v1: ready"'
REQUEST = r'I1121 16:08:57.911248 9185 logs.py:40] "flover flover_0_0 v1: request id=\"a b\" key=1099511627777 code=OK"'
REFUSED = 'I1121 16:08:59.665410 9185 logs.py:40] "flover flover_0_0 v1: requests refused count=14 seconds=1.1"'
ENGINE = 'I1121 16:08:57.498784 9208 process.py:59] "flover engine flover v1: ready: float32 on cpu"'
ERROR = 'E1121 16:08:57.498784 9208 logs.py:40] "flover flover_0_0 v1: request 5: its response could not be sent"'
NOT_LOADED = (
    "E1121 18:18:03.656995 14868 model_lifecycle.cc:642] \"failed to load 'flover' version 1: Internal: "
    "TritonModelException: /m/config.json is missing; expected a Hugging Face directory\\n\\nAt:\\n"
    '  /p/flover_backend/front/adapter.py(53): initialize\\n"'
)
NO_CUDA_DRIVER = 'E1121 18:18:00.157878 14868 server.cc:241] "CudaDriverHelper has not been initialized."'
JSON_READY = (
    r'I1121 16:09:30.8 9424 logs.py:40] "{\"time\": 1795277370.8, \"level\": \"info\", \"front\": \"flover_0_0 v1\", '
    r'\"message\": \"ready\"}"'
)
JSON_REQUEST = JSON_READY.replace("ready", "request")
JSON_REFUSED = JSON_READY.replace("ready", "requests refused")
JSON_ENGINE = '{"time": 1795277394.1, "level": "info", "engine": "flover v1", "pid": 9447, "message": "ready"}'
JSON_WARNING = JSON_ENGINE.replace("info", "warn")
ALL = [TRITON, READY, REQUEST, REFUSED, ENGINE, ERROR]
ALL_JSON = [TRITON, JSON_READY, JSON_REQUEST, JSON_REFUSED, JSON_ENGINE, JSON_WARNING]


@pytest.mark.parametrize(
    ("written", "own_lines", "expected"),
    [
        (ALL, True, [READY, ENGINE, ERROR]),
        (ALL, False, [ERROR]),
        (ALL_JSON, True, [JSON_READY, JSON_ENGINE, JSON_WARNING]),
        (ALL_JSON, False, [JSON_WARNING]),
    ],
)
def test_requests_lines_are_not_shown(written: list[str], own_lines: bool, expected: list[str]) -> None:
    shown: list[str] = []
    log_of(written, shown.append, own_lines)
    assert shown == expected


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ([NOT_LOADED, ERROR, TRITON], "/m/config.json is missing; expected a Hugging Face directory"),
        ([NO_CUDA_DRIVER, ERROR, TRITON], "flover flover_0_0 v1: request 5: its response could not be sent"),
        ([TRITON, NO_CUDA_DRIVER], TRITON),
        ([NO_CUDA_DRIVER], "it wrote nothing"),
    ],
)
def test_the_reason_is_what_the_load_said_or_the_last_error(written: list[str], expected: str) -> None:
    assert log_of(written).reason() == expected


def test_once_loaded_what_was_written_before_is_no_reason_and_a_reload_that_failed_only_an_error() -> None:
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        read = threading.Event()
        log = ServerLog(process.stdout, lambda line: read.set(), False, None)
        process.stdin.write(f"{ERROR}\n".encode())
        process.stdin.flush()
        assert read.wait(30)
        log.loaded()
        assert log.reason() == "it wrote nothing"
        process.stdin.write(f"{NOT_LOADED}\n{ERROR}\n".encode())
        process.stdin.close()
        process.wait(30)
        log.close()
        assert log.reason() == "flover flover_0_0 v1: request 5: its response could not be sent"


def log_of(written: list[str], show: Callable[[str], None] = lambda line: None, own_lines: bool = False) -> ServerLog:
    """A log that has read these lines."""
    echo = [sys.executable, "-c", "import sys; print(*sys.argv[1:], sep='\\n')", *written]
    with subprocess.Popen(echo, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        log = ServerLog(process.stdout, show, own_lines, None)
        process.wait(30)
        log.close()
    return log
