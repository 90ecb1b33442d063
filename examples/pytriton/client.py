"""A stream from server.py with PyTriton's own client: `python client.py [HOST:PORT [PROMPT]]`."""

from __future__ import annotations

import sys

import numpy as np
from pytriton.client import DecoupledModelClient


def main(url: str = "127.0.0.1:8001", prompt: str = "In the beginning") -> None:
    """Print the answer as it comes."""
    with DecoupledModelClient(f"grpc://{url}", "flover") as client:
        responses = client.infer_sample(
            text_input=np.array([prompt.encode()]),
            stream=np.array([True]),
            max_tokens=np.array([40], np.int32),
            temperature=np.array([0], np.float32),
        )
        for response in responses:
            print(response["text_output"][0].decode(), end="", flush=True)
        print()


if __name__ == "__main__":
    main(*sys.argv[1:])
