"""A PyTriton program inside the test process: engines bound in a real Triton on the CPU."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from live_server import free_ports, wait_for
from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig
from triton_client import Answer

from flover_backend.bundled import path_of
from flover_backend.front.tokenizer import Tokenizer
from flover_backend.pytriton import FloverEngine
from flover_backend.runtime_dir import candidate_directories


def triton_config() -> TritonConfig:
    http_port, grpc_port, metrics_port = free_ports(3)
    loopback = "127.0.0.1"
    return TritonConfig(
        **{"http_address": loopback, "grpc_address": loopback, "metrics_address": loopback},
        **{"http_port": http_port, "grpc_port": grpc_port, "metrics_port": metrics_port},
    )


ACCESS_TOKEN = "the-guarded-endpoints-token"


class Host:
    """Engines by their names, and where clients find them."""

    def __init__(self, config: TritonConfig, triton: Triton, engines: dict[str, FloverEngine]) -> None:
        self.grpc_url = f"127.0.0.1:{config.grpc_port}"
        self.http_url = f"http://127.0.0.1:{config.http_port}"
        self.triton = triton
        self.engines = engines
        self.encode = Tokenizer(path_of("llama-demo") / "tokenizer.json").encode

    @property
    def engine(self) -> FloverEngine:
        return self.engines["flover"]

    def wait_idle(self, model: str = "flover") -> dict[str, float]:
        """The engine's metrics when nothing runs or waits any more."""
        engine = self.engines[model]
        wait_for(lambda: not any(engine.metrics()[f"flover_requests_{state}"] for state in ("running", "waiting")), 60)
        return engine.metrics()


def traces_of(program: int) -> list[Path]:
    """What a PyTriton program has in shared memory, and its engines in the runtime directory."""
    folders = [folder for folder in candidate_directories() if folder.is_dir()]
    own = re.compile(rf"(pytrtion)?{program}-")  # PyTriton's word; other regions' names are random hexadecimals
    return [path for folder in (Path("/dev/shm"), *folders) for path in folder.iterdir() if own.match(path.name)]


def contents(answers: list[Answer]) -> list[Answer]:
    """Without PyTriton's end, an empty response with FINAL."""
    assert not answers[-1].error, answers[-1].error
    assert answers[-1].final and not answers[-1].outputs
    assert not any(answer.final for answer in answers[:-1])
    return answers[:-1]


@contextmanager
def pytriton_host(**models: dict[str, Any]) -> Iterator[Host]:
    """Model name -> configuration."""
    config = triton_config()
    with ExitStack() as stack:
        engines = {name: stack.enter_context(FloverEngine(name, **keys)) for name, keys in models.items()}
        security = TritonSecurityConfig(access_token=ACCESS_TOKEN)
        triton = stack.enter_context(Triton(config=config, security_config=security))
        for engine in engines.values():
            engine.bind(triton)
        yield Host(config, triton, engines)
