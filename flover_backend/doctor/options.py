"""The command line of the doctor. Touches no file."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class DoctorOptions:
    """One field a flag. None: found out."""

    repository: Path | None = None
    model: str | None = None
    server_root: Path | None = None
    backend_directory: Path | None = None
    python: Path | None = None
    device: str = "auto"
    instances: int | None = None
    url: str | None = None
    host: str = "127.0.0.1"
    ports: tuple[int, ...] = (8000, 8001, 8002)
    """HTTP, gRPC, metrics; 0: any, which is not checked."""
    json: bool = False


def parser(program: str) -> argparse.ArgumentParser:
    """Every flag with its default."""
    made = argparse.ArgumentParser(
        prog=program,
        description="Check a machine, a Triton server and a model repository before deploying. Changes nothing.",
        epilog="Exit status: 0 nothing failed (there may be warnings), 1 a check failed, 2 the command line is wrong.",
    )
    made.add_argument("--repository", type=Path, help="model repository (or one model's folder) to check")
    made.add_argument("--model", help="Hugging Face directory, or a bundled model, to check with default settings")
    made.add_argument("--instances", type=int, help="fronts of --model; default: 4 on a GPU, 1 on a CPU")
    server = made.add_argument_group("the server that is to serve it")
    server.add_argument(
        "--server-root",
        type=Path,
        help="default: /opt/tritonserver, else the server of the nvidia-pytriton wheel, as flover serve runs it",
    )
    server.add_argument("--backend-directory", type=Path, help="the server's; default: backends/ of the server root")
    server.add_argument("--python", type=Path, help="Python of the stub; default: the first python3 on PATH")
    server.add_argument(
        "--device",
        choices=("auto", "gpu", "cpu"),
        default="auto",
        help="what the server will have; auto: what this machine has. Default: %(default)s",
    )
    server.add_argument("--host", default="127.0.0.1", help="address it will listen on; default: %(default)s")
    for name, port in (("http", 8000), ("grpc", 8001), ("metrics", 8002)):
        server.add_argument(f"--{name}-port", type=_port, default=port, help="0: any; default: %(default)s")
    made.add_argument("--url", help="HTTP address (HOST:PORT) of a server that runs: its control mode and its models")
    made.add_argument("--json", action="store_true", help="print one JSON object")
    return made


def options_from(given: argparse.Namespace) -> DoctorOptions:
    """Raises ValueError naming a flag that makes no sense."""
    if given.instances is not None and given.instances < 1:
        raise ValueError(f"--instances: got {given.instances}, allowed: 1 or more")
    if given.instances is not None and given.model is None:
        raise ValueError("--instances goes with --model; a repository's config.pbtxt says its own count")
    return DoctorOptions(
        repository=given.repository,
        model=given.model,
        server_root=given.server_root,
        backend_directory=given.backend_directory,
        python=given.python,
        device=given.device,
        instances=given.instances,
        url=given.url,
        host=given.host,
        ports=(given.http_port, given.grpc_port, given.metrics_port),
        json=given.json,
    )


def _port(text: str) -> int:
    if text.isdigit() and int(text) <= 65535:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r}; allowed are 0 .. 65535")
