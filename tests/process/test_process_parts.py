"""The parts without a process around them: files, locks, the ring, distributions, leadership, threads, messages."""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from flover_backend import metric_families
from flover_backend.channel import Iteration, Loading, Metrics
from flover_backend.config import ModelJson
from flover_backend.engine import threads
from flover_backend.engine.leadership import MetricsLeadership
from flover_backend.engine.logs import JsonFormatter, TritonFormatter
from flover_backend.engine.metrics import Distribution
from flover_backend.engine.ring import RING_LENGTH, IterationRing
from flover_backend.engine_files import EngineFiles, EngineKey
from flover_backend.errors import ConfigError, EngineFailed
from flover_backend.file_lock import FileLock
from flover_backend.front.loading import SILENCE_S, LoadProgress
from flover_backend.front.rendezvous import configuration_digest
from flover_backend.runtime_dir import process_start_ticks, runtime_directory


def record(step: int) -> Iteration:
    return Iteration(step, 0.0, 0.0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0)


def test_the_ring_remembers_the_last_65536() -> None:
    ring = IterationRing()
    for step in range(RING_LENGTH + 10):
        ring.append(record(step))
    assert RING_LENGTH == 65_536
    assert [ring.since(0)[0].step, len(ring.since(0))] == [10, RING_LENGTH]
    assert [entry.step for entry in ring.since(RING_LENGTH + 7)] == [RING_LENGTH + 7, RING_LENGTH + 8, RING_LENGTH + 9]


def test_the_ring_may_have_gaps_but_steps_grow() -> None:
    ring = IterationRing()
    for step in (1, 4, 9):
        ring.append(record(step))
    assert [entry.step for entry in ring.since(3)] == [4, 9]
    with pytest.raises(AssertionError):
        ring.append(record(9))


def test_a_distribution_counts_like_a_histogram() -> None:
    distribution = Distribution((0.1, 0.5))
    for value, times in ((0.1, 1), (0.3, 2), (7.0, 1)):
        distribution.observe(value, times)
    assert distribution.series("x") == {
        'x_bucket{le="0.1"}': 1.0,
        'x_bucket{le="0.5"}': 3.0,
        'x_bucket{le="+Inf"}': 4.0,
        "x_sum": pytest.approx(7.7),
        "x_count": 4.0,
    }


def test_series_names_parse_back() -> None:
    text = metric_families.series("a:b", le="+Inf", kind="x")
    assert text == 'a:b{kind="x",le="+Inf"}'
    assert metric_families.parse_series(text) == ("a:b", {"kind": "x", "le": "+Inf"})
    assert metric_families.parse_series("plain") == ("plain", {})


def test_families_are_well_formed() -> None:
    names = [family.name for family in metric_families.declared()]
    assert len(names) == len(dict.fromkeys(names))
    for family in metric_families.FAMILIES:
        assert re.fullmatch(r"[a-z_][a-z0-9_:]*", family.name)
        assert list(family.labels) == sorted(family.labels)
        assert (family.kind == "distribution") == bool(family.bounds)
        assert list(family.bounds) == sorted(family.bounds)
        assert family.kind != "counter" or family.name.endswith("_total")


def test_a_load_is_logged_by_stage_and_given_up_after_a_long_silence(monkeypatch: pytest.MonkeyPatch) -> None:
    now, lines = [100.0], list[str]()
    monkeypatch.setattr("flover_backend.front.loading.time.monotonic", lambda: now[0])
    progress = LoadProgress(lines.append)
    for stage, fraction, seconds in (("weights", 0.1, 1.0), ("weights", 0.2, 1.0), ("weights", 0.5, 12.0)):
        now[0] += seconds
        progress.update(Loading(stage, fraction))
    now[0] += SILENCE_S - 1
    progress.silence()
    assert lines == ["engine: weights, 10%", "engine: weights, 50%", "engine: weights, 50%"]
    now[0] += 2
    with pytest.raises(EngineFailed, match=r"said nothing for 601 s while loading \(stage: weights\)"):
        progress.silence()


def test_log_lines_are_one_line_each() -> None:
    record = logging.LogRecord("x", logging.WARNING, "/a/load.py", 9, 'two\nlines "%s"', ("quoted",), None)
    head, _, text = TritonFormatter("m").format(record).partition("] ")
    assert re.fullmatch(r"W\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ load.py:9", head)
    assert text == r'"flover engine m: two\nlines \"quoted\""'
    fields = json.loads(JsonFormatter("m").format(record))
    assert fields.pop("time") == record.created
    assert fields == {"level": "warn", "engine": "m", "pid": os.getpid(), "message": 'two\nlines "quoted"'}


def test_leadership_passes_on_what_was_written() -> None:
    leadership = MetricsLeadership()
    assert [leadership.attached(1), leadership.attached(2), leadership.attached(3)] == [True, False, False]
    snapshots = [Metrics(number, {}, {}) for number in range(3)]
    for metrics in snapshots:
        leadership.sent(metrics)
    leadership.written(2, 2)
    assert leadership.acknowledged is None
    leadership.written(1, 1)
    assert leadership.acknowledged == snapshots[1]
    assert leadership.detached(2) is None
    assert leadership.detached(1) == 3
    leadership.written(3, 2)
    assert leadership.acknowledged == snapshots[1], "snapshot 2 was not sent to front 3"
    assert leadership.detached(3) is None
    assert leadership.leader is None


def test_lock_excludes_others_and_survives_its_file_s_removal(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    first, second = FileLock(path), FileLock(path)
    assert first.try_acquire()
    assert not second.try_acquire()
    assert not second.acquire(timeout_s=0.05)
    waiting = os.open(path, os.O_RDWR)
    first.remove()
    assert not path.exists()
    assert second.try_acquire(), "a new file, a new lock"
    assert not first.try_acquire()
    os.close(waiting)
    second.release()
    assert path.exists()


def test_the_runtime_directory_is_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    directory = runtime_directory()
    assert directory == tmp_path / "flover"
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o750)
    with pytest.raises(ConfigError, match="has mode 750; allowed is 700"):
        runtime_directory()
    directory.rmdir()
    directory.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match="is not a directory"):
        runtime_directory()


def test_without_a_usable_xdg_directory_the_temporary_one_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "missing"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert runtime_directory() == tmp_path / f"flover-{os.geteuid()}"
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    (tmp_path / "flover-12345").mkdir(mode=0o700)
    with pytest.raises(ConfigError, match="belongs to user id"):
        runtime_directory()


def test_sockets_work_in_directories_with_long_names(tmp_path: Path) -> None:
    directory = tmp_path / ("long" * 30)
    directory.mkdir()
    files = EngineFiles(directory, "stem")
    assert len(str(files.socket_path)) > 108
    assert files.connect() is None
    listener = files.listen()
    connection = files.connect()
    assert isinstance(connection, socket.socket)
    connection.close()
    listener.close()
    assert files.connect() is None, "a socket file that nobody listens on"
    files.remove_if_dead()
    assert list(directory.iterdir()) == []


def test_files_of_a_living_engine_are_not_removed(tmp_path: Path) -> None:
    files = EngineFiles(tmp_path, "stem")
    with files.listen():
        files.remove_if_dead()
        assert files.socket_path.exists()


def test_the_digest_knows_the_configuration_and_the_weight_files(tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(b"one")
    digests = [configuration_digest(ModelJson(), tmp_path)]
    digests.append(configuration_digest(ModelJson(block_size=32), tmp_path))
    weights.write_bytes(b"three")
    digests.append(configuration_digest(ModelJson(), tmp_path))
    os.utime(weights, (1, 1))
    digests.append(configuration_digest(ModelJson(), tmp_path))
    digests.append(configuration_digest(ModelJson(), tmp_path / "missing"))
    assert len(dict.fromkeys(digests)) == len(digests)
    assert configuration_digest(ModelJson(), tmp_path) == digests[3]


def test_file_names_are_short_whatever_the_model_is_called() -> None:
    key = EngineKey(server_pid=4_194_304, server_start=1, model_name="m" * 300, model_version="1", digest="d")
    assert len(key.stem) < 40


def test_a_process_is_told_from_a_later_one() -> None:
    ticks = process_start_ticks(os.getpid())
    assert ticks is not None and ticks > 0
    child = subprocess.Popen(["sleep", "0"])
    child.wait()
    assert process_start_ticks(child.pid) is None


@pytest.mark.parametrize(
    ("content", "cpus"), [("max 100000\n", sys.maxsize), ("150000 100000\n", 2), ("50000 100000", 1), ("", sys.maxsize)]
)
def test_the_container_s_cpu_quota_counts(tmp_path: Path, content: str, cpus: int) -> None:
    path = tmp_path / "cpu.max"
    path.write_text(content)
    assert threads._quota(path) == cpus


def test_an_operator_s_thread_count_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.setswitchinterval", lambda interval: None)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    threads.set_thread_counts()
    assert (os.environ["OMP_NUM_THREADS"], os.environ["OMP_WAIT_POLICY"]) == ("3", "ACTIVE")
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.delenv("OMP_WAIT_POLICY")
    threads.set_thread_counts()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE"
    assert 1 <= int(os.environ["OMP_NUM_THREADS"]) <= (os.cpu_count() or 1)


def test_no_module_of_the_front_imports_torch() -> None:
    program = """
import importlib, pkgutil, sys, types
sys.modules["triton_python_backend_utils"] = types.ModuleType("triton_python_backend_utils")
import flover_backend.front
names = [m.name for m in pkgutil.walk_packages(flover_backend.front.__path__, "flover_backend.front.")]
assert "flover_backend.front.client" in names
names += ["flover_backend." + n for n in ("channel", "config", "request", "errors", "metric_families", "observer",
          "runtime_dir")]
for name in names:
    importlib.import_module(name)
print("torch" in sys.modules, len(names))
"""
    root = Path(__file__).parents[2]
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONPATH": str(root)}
    )
    assert result.stdout.split()[0] == "False"
