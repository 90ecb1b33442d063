"""`python -m flover_backend.engine.process`: the engine process of one model, started by one of its fronts.

The IO thread (`connections`) lives from the first moment; the main thread loads the model, then serves (`service`).
The process ends when its last front or its tritonserver is gone, or when an iteration fails, and leaves no file.
It ignores SIGINT, SIGTERM and SIGHUP, which reach whole process groups: its end is decided by who is attached.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

import msgspec

from flover_backend.channel import EngineInfo, Failed, Loading
from flover_backend.config import parse_model_json
from flover_backend.engine.connections import Connections
from flover_backend.engine.interface import EngineCore, LoadEngine
from flover_backend.engine.logs import set_up_logging
from flover_backend.engine.service import EngineService
from flover_backend.engine.threads import set_thread_counts
from flover_backend.engine_files import Description, EngineFiles, EngineKey
from flover_backend.errors import ConfigError, FloverError
from flover_backend.file_lock import FileLock
from flover_backend.runtime_dir import process_start_ticks

log = logging.getLogger(__name__)

REAL_ENGINE = "flover_backend.engine.load:load_engine"


class EngineProcess:
    """Owns the process: its files, its threads, its end."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._arguments = arguments
        self._config = parse_model_json(arguments.config, "configuration of the engine process")
        self._key = msgspec.json.decode(arguments.key, type=EngineKey)
        set_up_logging(self._config.log_format, f"{self._key.model_name} v{self._key.model_version}")
        self._files = EngineFiles(arguments.rendezvous, arguments.stem)
        self._lock = FileLock(self._files.lock_path)
        self._core: EngineCore | None = None
        self._connections = Connections(
            socket.socket(fileno=arguments.listener_fd), self._open_server(), self._lock, self._end
        )

    def run(self) -> None:
        """Load and serve; never returns."""
        try:
            self._progress("importing", 0.0)  # before anybody can find it: the first word that each is told
            self._connections.start()
            self._describe()
            core, info = self._load()
            self._core = core
            self._connections.greet(None)
            log.info("ready: %s, %s on %s, %d blocks of KV", info.model_dir, info.dtype, info.device, info.num_blocks)
            info = msgspec.structs.replace(info, pid=os.getpid())
            EngineService(core, info, self._connections, is_restart=self._arguments.restart).run()
        except BaseException as error:
            self._fail(error)

    def _open_server(self) -> int:
        pid = self._key.server_pid
        try:
            server_pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            self._end("the server is gone", 0)
        if process_start_ticks(pid) != self._key.server_start:
            self._end("the server is gone and its process id was given to another", 0)
        return server_pidfd

    def _describe(self) -> None:
        self._files.write_description(
            Description(
                server_pid=self._key.server_pid,
                server_start=self._key.server_start,
                model_name=self._key.model_name,
                model_version=self._key.model_version,
                engine_pid=os.getpid(),
                drain_timeout_s=self._config.drain_timeout_s,
            )
        )

    def _load(self) -> tuple[EngineCore, EngineInfo]:
        set_thread_counts()
        try:
            load_engine = self._import_factory()
            return load_engine(self._config, self._arguments.model_dir, self._progress)
        except ModuleNotFoundError as error:  # a GPU's modules are imported late
            extras = "engine,gpu" if error.name == "triton" else "engine"
            raise ConfigError(
                f"the engine's interpreter {sys.executable} has no module {error.name}: install "
                f"flover-backend[{extras}] there, or set engine_python to an interpreter that has it"
            ) from error

    def _progress(self, stage: str, fraction: float) -> None:
        self._connections.greet(Loading(stage, fraction))

    def _import_factory(self) -> LoadEngine:
        module, _, function = self._arguments.factory.partition(":")
        factory: LoadEngine = getattr(importlib.import_module(module), function)
        return factory

    def _fail(self, error: BaseException) -> None:
        if isinstance(error, ConfigError):
            log.error("the model does not load: %s", error)
        else:
            log.exception("the engine failed")
        is_ours = isinstance(error, FloverError)
        text = str(error) if is_ours else f"the engine failed: {type(error).__name__}: {error}"
        code = error.code if isinstance(error, FloverError) else "INTERNAL"
        self._connections.close(Failed(text, code, self._core.unanswered_keys if self._core is not None else ()))
        self._end("it failed", 1)

    def _end(self, why: str, code: int) -> NoReturn:
        log.info("ending: %s", why)
        # NOTE: os._exit, as either thread may be the caller and the other may be deep in a load or an iteration.
        # An engine that failed may be started again: what tells how often stays then.
        self._files.remove(self._lock, for_good=code == 0)
        sys.stdout.flush()
        os._exit(code)


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line, which only `front.rendezvous` writes."""
    parser = argparse.ArgumentParser(prog="flover_backend.engine.process", description=__doc__)
    parser.add_argument("--rendezvous", type=Path, required=True, help="runtime directory")
    parser.add_argument("--stem", required=True, help="common name of this engine's files there")
    parser.add_argument("--listener-fd", type=int, required=True, help="the listening socket, inherited")
    parser.add_argument("--key", required=True, help="EngineKey as JSON: whose engine this is")
    parser.add_argument("--model-dir", type=Path, required=True, help="Hugging Face directory")
    parser.add_argument("--config", required=True, help="the effective model.json")
    parser.add_argument("--restart", action="store_true", help="in place of an engine that died")
    parser.add_argument("--factory", default=REAL_ENGINE, help="module:function that loads the engine (tests)")
    return parser.parse_args(argv)


def ignore_signals() -> None:
    """Signals that reach whole process groups do not end the engine. The front starts it with these blocked."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    for number in numbers:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the engine process; ends by os._exit."""
    ignore_signals()
    EngineProcess(parse_arguments(argv)).run()


if __name__ == "__main__":
    main()
