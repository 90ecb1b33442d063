"""Servers for the live tests: one for everyday use, and a way to start others."""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Iterator

import pytest
from live_server import SITE_PACKAGES, TRITON, LiveServer, StartServer, copy_repository, stub_environment


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """start_server(model_json, instances=1, arguments=(), config_text="") -> a server; stopped at the end at last.

    `config_text` replaces the shipped config.pbtxt.
    """
    shared = tmp_path_factory.mktemp("triton")
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
    started: list[LiveServer] = []

    def start(
        model_json: dict[str, object] | None = None,
        instances: int = 1,
        arguments: tuple[str, ...] = (),
        config_text: str = "",
    ) -> LiveServer:
        folder = tmp_path_factory.mktemp("server")
        copy_repository(folder / "models", model_json or {}, instances)
        if config_text:
            (folder / "models" / "flover" / "config.pbtxt").write_text(config_text)
        common = (
            f"--model-repository={folder / 'models'}",
            f"--backend-directory={shared / 'backends'}",
            "--model-control-mode=explicit",
            "--load-model=flover",
            "--allow-gpu-metrics=false",
            "--pinned-memory-pool-byte-size=0",
        )
        server = LiveServer(folder, [*common, *arguments], environment)
        started.append(server)
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture(scope="session")
def server(start_server: StartServer) -> LiveServer:
    """The everyday server: the bundled model behind two fronts."""
    running = start_server(instances=2)
    running.wait_ready()
    return running


@pytest.fixture(scope="session")
def small_server(start_server: StartServer) -> LiveServer:
    """Two rows, a queue of four, prompts in pieces of 4 tokens; it logs verbosely."""
    model_json = {"max_rows": 2, "max_queued_requests": 4, "prefill_token_budget": 4}
    running = start_server(model_json, instances=2, arguments=("--log-verbose=1",))
    running.wait_ready()
    return running
