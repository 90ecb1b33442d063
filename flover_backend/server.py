"""Runs one tritonserver: command line, ports, start, readiness, end.

Owns the process and the folder of the run. Knows nothing of requests and tokens; of the engine only how far its load
is. The server runs in a session of its own, so that a terminal's Ctrl-C reaches the command that started it alone.
"""

from __future__ import annotations

import glob
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from flover_backend.config import ModelJson
from flover_backend.errors import FloverError
from flover_backend.lifeline import end_with_parent, shared_memory_regions
from flover_backend.server_files import find_triton, lay_out_backends, lay_out_repository
from flover_backend.server_log import ServerLog

STOP_TIMEOUT_S = 15.0
"""After a drain nothing is left to wait for, and an unload takes 3 s; but Triton 24.10 sometimes waits for a gRPC
stream whose client is gone, past its own --exit-timeout-secs."""
STUB_TIMEOUT_S = 120
POLL_S = 0.05


class ServerFailed(FloverError):
    """The server did not start, or ended by itself."""


class ServerStopped(ServerFailed):
    """Somebody else stopped the server, as `flover drain --stop` does, and it ended in order."""


@dataclass(frozen=True)
class ServerOptions:
    """What to serve, and where. A port of 0 means a free one."""

    config: ModelJson = field(default_factory=ModelJson)
    name: str = "flover"
    instances: int | None = None
    """None: 4 on a GPU, 1 on a CPU."""
    host: str = "127.0.0.1"
    http_port: int = 0
    grpc_port: int = 0
    metrics_port: int = 0
    log_file: Path | None = None
    show: Callable[[str], None] = lambda line: None
    """Called from a thread with each warning and error."""
    show_own_lines: bool = False
    """`show` gets what this backend tells, too: its configuration, its memory, each drain; not each request."""
    server_arguments: tuple[str, ...] = ()
    """Further options of tritonserver, such as --grpc-use-ssl=true. It runs elsewhere: paths are absolute."""

    def instance_count(self) -> int:
        """The number of fronts."""
        return self.instances or (4 if self.on_gpu() else 1)

    def on_gpu(self) -> bool:
        """Whether the engine will take a GPU, told without importing torch."""
        return self.config.device == "cuda" or (self.config.device == "auto" and bool(glob.glob("/dev/nvidia[0-9]*")))


@dataclass(frozen=True)
class Ports:
    """Where a server listens."""

    http: int
    grpc: int
    metrics: int


def choose_ports(options: ServerOptions) -> Ports:
    """Free ports for those given as 0. Raises `ServerFailed` naming the first given one that is taken."""
    holders: list[socket.socket] = []
    try:
        for flag in ("http_port", "grpc_port", "metrics_port"):
            holders.append(_bind(options.host, getattr(options, flag), f"--{flag.replace('_', '-')}"))
        return Ports(*(holder.getsockname()[1] for holder in holders))
    finally:
        for holder in holders:
            holder.close()


def _bind(host: str, port: int, flag: str) -> socket.socket:
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        holder.bind((host, port))
    except (OSError, OverflowError) as error:
        holder.close()
        raise ServerFailed(f"cannot listen on {host} port {port}: {error}. Give another {flag}, or 0 for any") from None
    return holder


class TritonServer:
    """A tritonserver with one model, and the temporary folder that it runs from.

    `start`, `wait_ready`, then `stop` exactly once, or use it as a context manager. Call `start` from the main thread:
    the server ends with the thread that started it.
    """

    def __init__(self, options: ServerOptions) -> None:
        self.options = options
        self.ports = Ports(0, 0, 0)
        self.folder = Path()
        self._process: subprocess.Popen[bytes] | None = None
        self._log: ServerLog | None = None

    def __enter__(self) -> TritonServer:
        try:
            self.start()
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        """Process id of the tritonserver."""
        assert self._process is not None, "start() comes first"
        return self._process.pid

    @property
    def grpc_url(self) -> str:
        """host:port for tritonclient.grpc."""
        return f"{self._reachable_host}:{self.ports.grpc}"

    @property
    def http_url(self) -> str:
        """host:port for tritonclient.http."""
        return f"{self._reachable_host}:{self.ports.http}"

    @property
    def metrics_url(self) -> str:
        """URL of the Prometheus exposition."""
        return f"http://{self._reachable_host}:{self.ports.metrics}/metrics"

    @property
    def _reachable_host(self) -> str:
        return "127.0.0.1" if self.options.host == "0.0.0.0" else self.options.host

    def start(self) -> None:
        """Spawn the server. Raises `ConfigError`, `ServerFailed`."""
        install = find_triton()
        self.folder = Path(tempfile.mkdtemp(prefix="flover-server-"))
        lay_out_backends(self.folder, install)
        self.lay_out_models()
        self.ports = choose_ports(self.options)
        self._process = subprocess.Popen(
            [str(install.binary), *self.arguments()],
            env=install.environment(),
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=end_with_parent(os.getpid()),  # noqa: PLW1509 (from the main thread, nothing holds a lock)
        )
        assert self._process.stdout is not None, "stdout=PIPE"
        self._log = ServerLog(
            self._process.stdout, self.options.show, self.options.show_own_lines, self.options.log_file
        )

    def lay_out_models(self) -> None:
        """Write the model repository, `models`, into the folder of the run."""
        lay_out_repository(self.folder, self.options.name, self.options.instance_count(), self.options.config)

    def arguments(self) -> list[str]:
        """The server's command line."""
        options, host = self.options, self.options.host
        # NOTE: pinned host memory needs a CUDA driver; without one Triton warns on every start.
        gpu = (
            []
            if options.on_gpu()
            else [
                "--allow-gpu-metrics=false",
                "--pinned-memory-pool-byte-size=0",
            ]
        )
        return [
            *gpu,
            f"--model-repository={self.folder / 'models'}",
            "--model-control-mode=explicit",
            f"--load-model={options.name}",
            f"--backend-directory={self.folder / 'backends'}",
            f"--backend-config=python,stub-timeout-seconds={STUB_TIMEOUT_S}",
            f"--http-address={host}",
            f"--http-port={self.ports.http}",
            f"--grpc-address={host}",
            f"--grpc-port={self.ports.grpc}",
            f"--metrics-address={host}",
            f"--metrics-port={self.ports.metrics}",
            *options.server_arguments,
        ]

    def is_ready(self) -> bool:
        """True when the model answers its readiness probe."""
        url = f"http://{self.http_url}/v2/models/{self.options.name}/ready"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def wait_ready(self, tick: Callable[[], None] = lambda: None) -> None:
        """Return when the model is ready, calling `tick` while waiting. Raises `ServerFailed` with the log's error."""
        while not self.is_ready():
            self.check_running()
            tick()
            time.sleep(POLL_S)
        assert self._log is not None, "made by start()"
        self._log.loaded()

    def check_running(self) -> None:
        """Raise `ServerStopped` if the server was stopped by somebody else, `ServerFailed` if it has failed."""
        assert self._process is not None, "start() comes first"
        status = self._process.poll()
        if status == 0:  # tritonserver's only after SIGTERM or SIGINT
            raise ServerStopped("the server was stopped")
        if status is not None and status < 0:
            raise ServerFailed(f"the server ended with {status}: {signal.strsignal(-status)}")
        if status is not None:
            raise ServerFailed(f"the server ended with {status}: {self._reason()}")

    def _reason(self) -> str:
        assert self._log is not None, "made by start()"
        self._log.close()
        return self._log.reason()

    def terminate(self) -> None:
        """Ask the server to end: SIGTERM, once it serves nobody any more."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        """SIGKILL for the server and its stubs at once; the shared memory that they then cannot remove goes too."""
        regions = shared_memory_regions(process.pid)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for region in regions:
            Path("/dev/shm", region).unlink(missing_ok=True)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the server, by force after `timeout_s` or when interrupted, and remove its folder.

        Does nothing the second time.
        """
        process, self._process = self._process, None
        try:
            if process is not None:
                self._end(process, timeout_s)
        finally:
            if self.folder != Path():
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder = Path()

    def _end(self, process: subprocess.Popen[bytes], timeout_s: float) -> None:
        try:
            if process.poll() is None:
                process.terminate()
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._kill(process)
        except BaseException:
            self._kill(process)
            raise
        finally:
            if self._log is not None:
                self._log.close()
