"""What of a server's output `flover serve` shows. The lines are a tritonserver's of 24.10, as it wrote them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from flover_backend.server_log import ServerLog

TRITON = "I1121 16:08:57.604051 9185 model_lifecycle.cc:839] \"successfully loaded 'flover'\""
READY = 'I1121 16:08:57.547118 9185 logs.py:40] "flover flover_0_0 v1: ready"'
REQUEST = r'I1121 16:08:57.911248 9185 logs.py:40] "flover flover_0_0 v1: request id=\"a b\" key=1099511627777 code=OK"'
REFUSED = 'I1121 16:08:59.665410 9185 logs.py:40] "flover flover_0_0 v1: requests refused count=14 seconds=1.1"'
ENGINE = 'I1121 16:08:57.498784 9208 process.py:59] "flover engine flover v1: ready: float32 on cpu"'
ERROR = 'E1121 16:08:57.498784 9208 logs.py:40] "flover flover_0_0 v1: request 5: its response could not be sent"'
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
    echo = [sys.executable, "-c", "import sys; print(*sys.argv[1:], sep='\\n')", *written]
    with subprocess.Popen(echo, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        log = ServerLog(process.stdout, shown.append, own_lines, None)
        process.wait(30)
        log.close()
    assert shown == expected
