"""A PyTriton program: keys of model.json on its input's first line, `ready PORT` on its output, ends with its input."""

from __future__ import annotations

import json
import os
import socket
import sys


def main() -> None:
    """Serve until the input ends."""
    keys = json.loads(sys.stdin.readline())
    os.environ["PYTRITON_HOME"] = keys.pop("home")
    token = keys.pop("token")
    from flover_backend.pytriton import FloverEngine  # first: it prepares the environment of PyTriton's processes

    from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig  # isort: skip

    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what PyTriton and Triton print is no answer
    http, grpc, metrics = _free_ports(3)
    config = TritonConfig(
        http_address="127.0.0.1",
        grpc_address="127.0.0.1",
        metrics_address="127.0.0.1",
        http_port=http,
        grpc_port=grpc,
        metrics_port=metrics,
    )
    security = TritonSecurityConfig(access_token=token)
    with FloverEngine("flover", **keys) as engine, Triton(config=config, security_config=security) as triton:
        engine.bind(triton)
        triton.run()
        print(f"ready {grpc}", file=out, flush=True)
        sys.stdin.read()


def _free_ports(count: int) -> list[int]:
    holders = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [holder.getsockname()[1] for holder in holders]
    for holder in holders:
        holder.close()
    return ports


if __name__ == "__main__":
    main()
