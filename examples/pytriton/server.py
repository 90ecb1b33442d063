"""A language model in a PyTriton program: `python server.py [--model DIR] [--grpc-port N] [--http-port N]`.

Needs `pip install "flover-backend[engine,server]"`. Loopback only; Ctrl-C or SIGTERM ends it.
"""

from __future__ import annotations

import argparse
import signal

from pytriton.triton import Triton, TritonConfig

from flover_backend.pytriton import FloverEngine


def main() -> None:
    """Serve until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="llama-demo", help="Hugging Face directory, or a bundled model")
    parser.add_argument("--http-port", type=int, default=8000)
    parser.add_argument("--grpc-port", type=int, default=8001)
    parser.add_argument("--metrics-port", type=int, default=8002)
    arguments = parser.parse_args()
    config = TritonConfig(
        http_address="127.0.0.1",  # PyTriton's own default is every address of the machine
        grpc_address="127.0.0.1",
        metrics_address="127.0.0.1",
        http_port=arguments.http_port,
        grpc_port=arguments.grpc_port,
        metrics_port=arguments.metrics_port,
    )
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # PyTriton stops in order on KeyboardInterrupt alone
    with FloverEngine("flover", model=arguments.model) as engine, Triton(config=config) as triton:
        engine.bind(triton)
        print("ready", flush=True)
        triton.serve()


if __name__ == "__main__":
    main()
