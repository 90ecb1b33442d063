"""A stream over plain tritonclient and asyncio: `python raw_asyncio.py [HOST:PORT [PROMPT]]`. No package of ours.

`stream_infer` takes an iterator of requests: this one ends after one request, so the stream ends with its answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpcclient


def tensor(name: str, datatype: str, value: Any, dtype: Any) -> Any:
    """An input of one element."""
    array = np.array([value], dtype=dtype)
    found = grpcclient.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array)
    return found


async def requests(prompt: str) -> AsyncIterator[dict[str, Any]]:
    """The one request of the stream."""
    parameters = {"max_tokens": 40, "temperature": 0, "stop": ["\n\n"]}
    inputs = [
        tensor("text_input", "BYTES", prompt.encode(), np.object_),
        tensor("stream", "BOOL", True, np.bool_),
        tensor("sampling_parameters", "BYTES", json.dumps(parameters).encode(), np.object_),
    ]
    yield {"model_name": "flover", "inputs": inputs}


async def main(url: str = "127.0.0.1:8001", prompt: str = "In the beginning") -> None:
    """Print the answer as it comes."""
    async with grpcclient.InferenceServerClient(url) as client:
        refused = ""
        async for result, error in client.stream_infer(requests(prompt)):
            if error is not None:  # go on to the stream's end: Triton 24.10 keeps one that is left just then
                refused = error.message()
            else:
                print(result.as_numpy("text_output")[0].decode(), end="", flush=True)
    print()
    if refused:
        raise SystemExit(f"refused: {refused}")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
