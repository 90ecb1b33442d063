"""The machine's checks on facts that are made up, and what is found of the real one."""

from __future__ import annotations

import os
import re
import resource
import socket
import stat
import subprocess
import sys
import time
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from repositories import at_level

from flover_backend.doctor import machine
from flover_backend.doctor.machine import MachineFacts, check_machine
from flover_backend.doctor.report import as_json
from flover_backend.engine_files import Description

GOOD = MachineFacts(
    kernel="6.1.0",
    pidfd_error="",
    open_files=1 << 20,
    cores=8.0,
    taken_ports=(),
    runtime_dir="/tmp/flover-7",
    runtime_dir_error="",
    left_regions=(),
    left_bytes=0,
    left_engines=(),
)


def checks(fronts: int = 4, clients: int = 1280, **changes: Any) -> list[Any]:
    return check_machine(replace(GOOD, **changes), fronts=fronts, clients=clients, live=False)


def test_a_good_machine() -> None:
    found = checks()
    assert [check.level for check in found] == ["ok"] * 6
    assert (
        checks(open_files=resource.RLIM_INFINITY) and at_level(checks(open_files=resource.RLIM_INFINITY), "warn") == []
    )


FAULTS: dict[str, tuple[str, dict[str, Any], str, str]] = {
    "no pidfd": ("fail", {"pidfd_error": "Function not implemented"}, "gives no pidfd", "Linux 5.3 or later"),
    "few cores": ("warn", {"cores": 2.0}, "2 to use, 4 fronts", "lower the count of instance_group"),
    "half a core": ("warn", {"cores": 0.5}, "0.5 to use", "more cores"),
    "few files": ("warn", {"open_files": 1024}, "at most 1024; 1280 clients", "ulimit -n 4096"),
    "a port": ("warn", {"taken_ports": ("x port 8000 (HTTP): in use",)}, "8000 (HTTP): in use", "--http-port"),
    "a directory": (
        "fail",
        {"runtime_dir_error": "it has mode 755"},
        "/tmp/flover-7: it has mode 755",
        "XDG_RUNTIME_DIR",
    ),
    "regions": (
        "warn",
        {"left_regions": ("a", "b", "c", "d"), "left_bytes": 5 << 20},
        "4 regions of dead Python stubs in /dev/shm, 5 MiB: /dev/shm/a /dev/shm/b /dev/shm/c and 1 more",
        "remove these alone: flover doctor --json | grep -o",
    ),
    "engines": (
        "warn",
        {"left_engines": ("/tmp/x.json",)},
        "1 engines whose server is gone: /tmp/x.json",
        "next start",
    ),
}


@pytest.mark.parametrize(("level", "changes", "said", "advice"), FAULTS.values(), ids=FAULTS)
def test_a_fault_is_named_with_what_to_do(level: str, changes: dict[str, Any], said: str, advice: str) -> None:
    (line,) = at_level(checks(**changes), level)
    assert said in line and advice in line
    assert len(at_level(checks(**changes), "ok")) == 5


def test_everything_that_is_left_is_named_for_a_program() -> None:
    regions, engines = tuple("abcde"), ("/tmp/x.json", "/tmp/y.json")
    found = checks(left_regions=regions, left_engines=engines)
    assert [one.paths for one in found if one.name == "leftovers"] == [
        tuple(f"/dev/shm/{name}" for name in regions),
        engines,
    ]


def test_the_advised_command_names_the_regions_and_nothing_else() -> None:
    regions = tuple(f"{machine.REGION_PREFIX}{uuid.UUID(int=number)}" for number in range(4))
    report_text = as_json([("machine", checks(left_regions=regions, left_engines=("/tmp/x.json",)))])
    (command,) = re.findall(r"json \| (grep .*) \| xargs rm", machine.REMOVE_REGIONS)
    answer = subprocess.run(["sh", "-c", command], input=report_text, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == [f"/dev/shm/{name}" for name in regions]


def test_ports_of_a_server_that_runs_are_not_judged() -> None:
    found = check_machine(replace(GOOD, taken_ports=("x",)), fronts=1, clients=1, live=True)
    assert "ports" not in [check.name for check in found]


def test_this_machine() -> None:
    found = machine.look("127.0.0.1", (0, 0, 0))
    assert found.pidfd_error == "" and found.taken_ports == ()
    assert 0 < found.cores <= (os.cpu_count() or 1)
    assert found.open_files == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert found.kernel == os.uname().release


def test_a_port_that_somebody_has() -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        (taken,) = machine.look("127.0.0.1", (0, port, 0)).taken_ports
    assert taken.startswith(f"127.0.0.1 port {port} (gRPC): ")


def test_an_address_that_is_none() -> None:
    assert len(machine.look("203.0.113.1", (8000, 8001, 8002)).taken_ports) == 3


@pytest.fixture
def own_runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return tmp_path / "flover"


def test_a_runtime_directory_that_others_can_enter(own_runtime: Path) -> None:
    assert machine.look("127.0.0.1", (0, 0, 0)).runtime_dir_error == ""
    own_runtime.mkdir(mode=0o700)
    assert machine.look("127.0.0.1", (0, 0, 0)).runtime_dir_error == ""
    own_runtime.chmod(0o755)
    assert "allowed is 700" in machine.look("127.0.0.1", (0, 0, 0)).runtime_dir_error
    assert stat.S_IMODE(own_runtime.stat().st_mode) == 0o755, "it was changed"


def test_engines_whose_server_is_gone(own_runtime: Path) -> None:
    own_runtime.mkdir(mode=0o700)
    with subprocess.Popen([sys.executable, "-c", ""]) as ended:
        pass
    gone = Description(
        server_pid=ended.pid, server_start=1, model_name="m", model_version="1", engine_pid=2, drain_timeout_s=1
    )
    (own_runtime / "gone.json").write_bytes(msgspec.json.encode(gone))
    assert str(own_runtime / "gone.json") in machine.look("127.0.0.1", (0, 0, 0)).left_engines


def test_regions_that_no_process_names(tmp_path: Path) -> None:
    names = [f"{machine.REGION_PREFIX}{kind}" for kind in ("dead", "used", "new")]
    for name in names:
        (tmp_path / name).write_bytes(b"x" * 8192)
    for name in names[:2]:
        os.utime(tmp_path / name, (time.time() - 3600,) * 2)
    (tmp_path / "of-somebody-else").write_bytes(b"")
    wait = [sys.executable, "-c", "import sys; print('up', flush=True); sys.stdin.read()", names[1]]
    with subprocess.Popen(wait, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdin is not None and user.stdout is not None
        user.stdout.readline()  # only now its command line can be read for certain
        found = machine.left_regions(tmp_path)
        user.stdin.close()
    assert [path.name for path in found] == names[:1]


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "25000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.25),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
    ],
)
def test_a_containers_share_of_the_cores(tmp_path: Path, files: dict[str, str], cores: float | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert machine.usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))
