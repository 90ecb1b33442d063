"""A stream over plain tritonclient and its callbacks: `python raw_sync.py [HOST:PORT [PROMPT]]`. No package of ours.

One stream a request: cancelling a stream cancels every request on it. Close it, or the server cannot stop.
"""

from __future__ import annotations

import queue
import sys
from typing import Any

import numpy as np
import tritonclient.grpc as grpcclient


def tensor(name: str, datatype: str, value: Any, dtype: Any) -> Any:
    """An input of one element."""
    array = np.array([value], dtype=dtype)
    found = grpcclient.InferInput(name, list(array.shape), datatype)
    found.set_data_from_numpy(array)
    return found


def main(url: str = "127.0.0.1:8001", prompt: str = "In the beginning") -> None:
    """Print the answer as it comes."""
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    client = grpcclient.InferenceServerClient(url)
    client.start_stream(callback=lambda result, error: answers.put((result, error)))
    inputs = [
        tensor("text_input", "BYTES", prompt.encode(), np.object_),
        tensor("stream", "BOOL", True, np.bool_),
        tensor("max_tokens", "INT32", 40, np.int32),
        tensor("temperature", "FP32", 0, np.float32),
    ]
    is_over = False
    try:
        client.async_stream_infer("flover", inputs)
        while not is_over:
            result, error = answers.get()
            if error is not None:
                is_over = True
                raise SystemExit(f"refused: {error.message()}")
            print(result.as_numpy("text_output")[0].decode(), end="", flush=True)
            is_over = result.get_response().parameters["triton_final_response"].bool_param
        print()
    finally:
        # Triton 24.10 keeps a stream, and cannot stop, when it is cancelled just after its last response: do so only
        # on the way out of an answer that is not complete.
        client.stop_stream(cancel_requests=not is_over)
        client.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
