"""A bare tritonserver, started by hand on a copy of the shipped model repository, as an operator would do it."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from flover_backend.runtime_dir import candidate_directories

ROOT = Path(__file__).resolve().parents[2]
SITE_PACKAGES = Path(sysconfig.get_path("purelib"))
TRITON = SITE_PACKAGES / "pytriton" / "tritonserver"
START_TIMEOUT_S = 90
STOP_TIMEOUT_S = 40
EXPLICIT = ("--model-control-mode=explicit", "--load-model=flover")
QUIET_S = 15
"""A server whose fronts are ready and that says nothing for so long has given one up."""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def stub_environment(folder: Path) -> Path:
    """The `bin` of a virtual environment that has the package: this one, or one that adds the source tree to it.

    The stub takes its `sys.path` from the python3 that is first on PATH and ignores PYTHONPATH.
    """
    probe = [sys.executable, "-I", "-c", "import flover_backend; print(flover_backend.__file__)"]
    found = subprocess.run(probe, cwd="/", capture_output=True, text=True, check=False).stdout.strip()
    if found == str(ROOT / "flover_backend" / "__init__.py"):
        return Path(sys.executable).parent
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (site / "flover.pth").write_text(f"{ROOT}\n{SITE_PACKAGES}\n")
    return folder / "bin"


class LiveServer:
    """One tritonserver. Tests add requests; whoever made it stops it."""

    def __init__(self, folder: Path, arguments: list[str], environment: dict[str, str]) -> None:
        self.folder = folder
        self.http_port, self.grpc_port, self.metrics_port = free_ports(3)
        self.log_path = folder / "server.log"
        ports = [
            *("--http-address=127.0.0.1", f"--http-port={self.http_port}"),
            *("--grpc-address=127.0.0.1", f"--grpc-port={self.grpc_port}"),
            *("--metrics-address=127.0.0.1", f"--metrics-port={self.metrics_port}"),
        ]
        self._command = [str(TRITON / "bin" / "tritonserver"), *ports, *arguments]
        self._environment = environment
        self._may_start_again = True
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log_path.open("wb") as log:
            return subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._environment,
                start_new_session=True,
            )

    @property
    def grpc_url(self) -> str:
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def http_url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def metrics(self) -> dict[str, float]:
        """Series -> value of this scrape."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        pairs = [line.rsplit(" ", 1) for line in lines if line and not line.startswith("#")]
        return {name: float(value) for name, value in pairs}

    def wait_ready(self, model: str = "flover", metrics: bool = True) -> None:
        """`metrics`: whether the server serves any; they are the last of Triton's services to start."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while not self._is_ready(model, metrics):
            if self._may_start_again and self._gave_a_front_up(model):
                self._start_again()
                deadline = time.monotonic() + START_TIMEOUT_S
            assert self.process.poll() is None, f"the server ended:\n{self.log()[-5000:]}"
            assert time.monotonic() < deadline, f"the server was not ready in time:\n{self.log()[-5000:]}"
            time.sleep(0.05)

    def _gave_a_front_up(self, model: str) -> bool:
        """24.10 does so where a busy machine leaves a stub no processor for a second, and waits for ever, or aborts."""
        log = self.log()
        if self.process.poll() is not None:
            return "boost::interprocess::lock_exception" in log
        fronts = set(re.findall(rf"ModelInstanceInitialize: ({re.escape(model)}_0_\d+) ", log))
        ready = set(re.findall(rf'flover ({re.escape(model)}_0_\d+) v1: ready"', log))
        is_quiet = time.time() - self.log_path.stat().st_mtime > QUIET_S
        return is_quiet and bool(fronts) and fronts == ready and f"successfully loaded '{model}'" not in log

    def _start_again(self) -> None:
        """Once. The first log is kept beside the other."""
        self._may_start_again = False
        children = self.descendants()
        self.process.kill()
        self.process.wait()
        wait_for(lambda: not any(map(is_running, children)), timeout_s=30)
        kept = self.log_path.rename(self.log_path.with_name("server.log.1"))
        warnings.warn(f"tritonserver gave a front up as it loaded, and was started again: {kept}", stacklevel=3)
        self.process = self._start()

    def _is_ready(self, model: str, metrics: bool) -> bool:
        try:
            if metrics:
                self.metrics()
            with urllib.request.urlopen(f"{self.http_url}/v2/models/{model}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def descendants(self) -> list[int]:
        """Process ids of the stubs and the engine."""
        return descendants_of(self.process.pid)

    def wait_ended(self) -> int:
        """Its exit code, when it ends by itself."""
        return self.process.wait(START_TIMEOUT_S)

    def begin_stop(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)

    def stop(self) -> None:
        self.begin_stop()
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"the server did not stop:\n{self.log()[-5000:]}") from None


def descendants_of(process: int) -> list[int]:
    """Process ids of its children and of theirs."""
    found, new = [], [process]
    while new:
        new = [child for pid in new for child in _children(pid)]
        found += new
    return found


def _children(pid: int) -> list[int]:
    """Of a process that may be ending."""
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return [int(child) for thread in threads for child in (thread / "children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


StartServer = Callable[..., LiveServer]


@contextmanager
def live_servers(make_folder: Callable[[str], Path]) -> Iterator[StartServer]:
    """start_server(model_json, instances=1, arguments=(), config_text="") -> a server; stopped at the end at last.

    `config_text` replaces the shipped config.pbtxt, `control` the arguments that say which models are loaded.
    `prepare(models)` changes the repository before the start. `make_folder(name)`: a new folder for files of theirs.
    """
    shared = make_folder("triton")
    backend = shared / "backends" / "python"
    backend.mkdir(parents=True)
    release = f"{sys.version_info.major}.{sys.version_info.minor}"
    stub = TRITON / "python_backend_stubs" / release / "triton_python_backend_stub"
    for source in [*(path for path in (TRITON / "backends" / "python").iterdir() if path.is_file()), stub]:
        (backend / source.name).symlink_to(source)
    libraries = [str(SITE_PACKAGES / "nvidia_pytriton.libs"), sysconfig.get_config_var("LIBDIR")]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
        "LD_LIBRARY_PATH": os.pathsep.join(libraries),
        "PATH": f"{stub_environment(shared / 'venv')}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    stops = ExitStack()  # each is stopped, whatever a test or another's stop says
    started: list[LiveServer] = []

    def start(
        model_json: dict[str, object] | None = None,
        instances: int = 1,
        arguments: tuple[str, ...] = (),
        config_text: str = "",
        control: tuple[str, ...] = EXPLICIT,
        prepare: Callable[[Path], object] = lambda models: None,
    ) -> LiveServer:
        folder = make_folder("server")
        copy_repository(folder / "models", model_json or {}, instances)
        if config_text:
            (folder / "models" / "flover" / "config.pbtxt").write_text(config_text)
        prepare(folder / "models")
        common = (
            f"--model-repository={folder / 'models'}",
            f"--backend-directory={shared / 'backends'}",
            *control,
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
        )
        server = LiveServer(folder, [*common, *arguments], environment)
        stops.callback(server.stop)
        started.append(server)
        return server

    with stops:
        try:
            yield start
        finally:
            for server in started:  # they take a second or two each: beside each other
                server.begin_stop()


def copy_repository(target: Path, model_json: dict[str, object], instances: int) -> None:
    shutil.copytree(ROOT / "model_repository", target, ignore=shutil.ignore_patterns("__pycache__"))
    config = target / "flover" / "config.pbtxt"
    config.write_text(config.read_text().replace("count: 1", f"count: {instances}"))
    (target / "flover" / "1" / "model.json").write_text(json.dumps(model_json))


def wait_for(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"it did not become true within {timeout_s} s"
        time.sleep(0.05)


def is_running(pid: int) -> bool:
    """False for a process that has ended, whether or not somebody has collected it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def command_line(pid: int) -> list[str]:
    """Empty strings when the process has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return [""]


def shared_memory_of(pid: int) -> list[Path]:
    """Triton's regions that a process names in its command line: a stub's one."""
    arguments = command_line(pid)
    return [path for path in Path("/dev/shm").iterdir() if path.name in arguments]


def runtime_files(server: LiveServer) -> list[Path]:
    """What this server's engines have in the runtime directory."""
    return [
        path
        for directory in candidate_directories()
        if directory.is_dir()
        for path in sorted(directory.glob(f"{server.process.pid}-*"))
    ]
