"""How the instances of one model find or start their engine process.

Instances with the same `EngineKey` share an engine. Under a lock one of them binds the socket, connects to it and
starts the engine, which inherits the listening socket; the others connect. So a connection never races with the
engine's start: it waits in the socket's backlog. Knows no tokens, no Triton, no torch.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

import flover_backend
from flover_backend.channel import PROTOCOL_VERSION, Hello, encode
from flover_backend.config import ModelJson, to_json
from flover_backend.engine_files import EngineFiles, EngineKey, remove_dead_engines
from flover_backend.errors import ConfigError, EngineFailed
from flover_backend.file_lock import FileLock
from flover_backend.front.restarts import RestartLimit
from flover_backend.runtime_dir import process_start_ticks, runtime_directory

LOCK_TIMEOUT_S = 60.0
LOCK_LOG_INTERVAL_S = 5.0
EXIT_TIMEOUT_S = 2.0
"""How long a front waits for the exit code of an engine whose socket is closed."""

Log = Callable[[str], None]


@dataclass(frozen=True)
class EngineSpec:
    """Which engine a front wants, and how to start it if there is none."""

    config: ModelJson
    model_dir: Path
    """The Hugging Face directory, resolved."""
    model_name: str
    model_version: str
    server_pid: int
    """The tritonserver: its end is the engine's end."""
    factory: str = ""
    """Tests only: `module:function` in place of `flover_backend.engine.load:load_engine`."""

    def key(self) -> EngineKey:
        """Raises `EngineFailed` when the server is gone."""
        start = process_start_ticks(self.server_pid)
        if start is None:
            raise EngineFailed(f"the server process {self.server_pid} is gone")
        return EngineKey(
            server_pid=self.server_pid,
            server_start=start,
            model_name=self.model_name,
            model_version=self.model_version,
            digest=configuration_digest(self.config, self.model_dir, self.factory),
        )


@dataclass
class Attachment:
    """A connection on which Hello has been sent. `process` is set in the front that started the engine."""

    connection: socket.socket
    files: EngineFiles
    process: subprocess.Popen[bytes] | None

    def exit_code(self, timeout_s: float) -> int | None:
        """Of the engine, if this front started it and it ends within `timeout_s`; then no zombie is left."""
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return self.process.wait(timeout_s)
        return None

    def exit_text(self) -> str:
        """The engine's exit code in brackets, where it is known."""
        code = self.exit_code(EXIT_TIMEOUT_S)
        return "" if code is None else f" (exit code {code})"

    def abandon(self) -> None:
        """End the wait of another thread for this engine."""
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def clean_up(self) -> None:
        """After a failure: leave neither a zombie nor files of a dead engine."""
        self.exit_code(EXIT_TIMEOUT_S)
        self.files.remove_if_dead(for_good=False)


def configuration_digest(config: ModelJson, model_dir: Path, factory: str = "") -> str:
    """Hex digest of the effective configuration and of the model files' paths, sizes and modification times."""
    model_dir = model_dir.resolve()
    files = sorted(path for path in model_dir.glob("*") if path.is_file()) if model_dir.is_dir() else []
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    facts = (PROTOCOL_VERSION, flover_backend.__version__, to_json(config), str(model_dir), stats, factory)
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()


def attach(spec: EngineSpec, name: str, log: Log, limit: RestartLimit | None = None) -> Attachment:
    """Connect to the engine of `spec`, starting it if need be. Raises `ConfigError`, `EngineFailed`.

    `limit`: if there is none, one has died. Starting another counts; raises `RestartsUsedUp`. Without it an operator
    loads the model, and what was counted is forgotten.
    """
    key = spec.key()
    files = EngineFiles(runtime_directory(), key.stem)
    remove_dead_engines()
    lock = FileLock(files.lock_path)
    _acquire(lock, log)
    try:
        connection = files.connect()
        if connection is None:
            if limit is None:
                files.restarts_path.unlink(missing_ok=True)
            else:
                limit.count(files, key)
            return _start(spec, key, files, lock, name, log, is_restart=limit is not None)
        _greet(connection, name)
        return Attachment(connection, files, None)
    finally:
        lock.release()


def _acquire(lock: FileLock, log: Log) -> None:
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    while not lock.acquire(LOCK_LOG_INTERVAL_S):
        if time.monotonic() >= deadline:
            raise EngineFailed(f"{lock.path} was not free for {LOCK_TIMEOUT_S:.0f} s; which process holds it: lslocks")
        log(f"waiting for {lock.path}: another instance is starting or ending the engine")


def _greet(connection: socket.socket, name: str) -> None:
    try:
        connection.sendall(encode(Hello(role="front", name=name, pid=os.getpid())))
    except OSError as error:
        connection.close()
        raise EngineFailed(f"the engine process went away while this instance attached: {error}") from None


def _start(
    spec: EngineSpec, key: EngineKey, files: EngineFiles, lock: FileLock, name: str, log: Log, *, is_restart: bool
) -> Attachment:
    try:
        with files.listen() as listener:
            connection = files.connect()
            assert connection is not None, "a listening socket accepts connections"
            _greet(connection, name)
            process = _start_engine(spec, key, files, listener, is_restart=is_restart)
    except BaseException:
        files.remove(lock, for_good=not is_restart)
        raise
    log(f"started the engine process {process.pid}")
    return Attachment(connection, files, process)


def _start_engine(
    spec: EngineSpec, key: EngineKey, files: EngineFiles, listener: socket.socket, *, is_restart: bool
) -> subprocess.Popen[bytes]:
    python = spec.config.engine_python or sys.executable
    if "/" in python:
        python = os.path.abspath(python)  # relative to where the server was started
    if not python:
        raise ConfigError("engine_python is not set and this interpreter does not know its own path; set engine_python")
    arguments = {
        "--rendezvous": str(files.directory),
        "--stem": files.stem,
        "--listener-fd": str(listener.fileno()),
        "--key": msgspec.json.encode(key).decode(),
        "--model-dir": str(spec.model_dir),
        "--config": msgspec.json.encode(spec.config).decode(),
    }
    if spec.factory:
        arguments["--factory"] = spec.factory
    command = [python, "-m", "flover_backend.engine.process", *(x for pair in arguments.items() for x in pair)]
    command += ["--restart"] if is_restart else []
    # NOTE: a Ctrl-C reaches the whole process group; blocked signals stay blocked in the child until it ignores them.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=(listener.fileno(),),
            # NOTE: with -m Python imports from its working directory first; Python 3.10 cannot be told not to, so it is
            # one that only this user writes to.
            cwd=files.directory,
            env={
                **os.environ,
                "PYTHONSAFEPATH": "1",
                "PYTHONPATH": _python_path(own_interpreter=spec.config.engine_python is None),
            },
        )
    except OSError as error:
        raise ConfigError(f"engine_python {python} does not start: {error}; give the path of a Python 3.10+") from None
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _python_path(own_interpreter: bool) -> str:
    package_root = str(Path(flover_backend.__file__).resolve().parent.parent)
    if own_interpreter:
        entries = [package_root, *(entry for entry in sys.path if entry)]
    elif Path(package_root).name in ("site-packages", "dist-packages"):
        # NOTE: another interpreter must not see this one's installed packages; it has the package installed itself.
        entries = []
    else:
        entries = [package_root]
    entries += [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    return os.pathsep.join(dict.fromkeys(entries))
