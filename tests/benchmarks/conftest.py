"""One live server for the measuring tools, with the bundled model and one that ends its answers in another way."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest
from live_server import LiveServer, live_servers

LATE_FINAL = """
import numpy as np
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            count = int(pb_utils.get_input_tensor_by_name(request, "max_tokens").as_numpy()[0])
            for number in range(count):
                sender.send(pb_utils.InferenceResponse([
                    pb_utils.Tensor("text_output", np.array([b"word"], dtype=object)),
                    pb_utils.Tensor("output_ids", np.array([7], dtype=np.int32)),
                ]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""
LATE_FINAL_CONFIG = """
backend: "python"
max_batch_size: 0
model_transaction_policy { decoupled: true }
input [
  { name: "input_ids", data_type: TYPE_INT32, dims: [ -1 ], optional: true },
  { name: "max_tokens", data_type: TYPE_INT32, dims: [ 1 ] }
]
output [
  { name: "text_output", data_type: TYPE_STRING, dims: [ -1 ] },
  { name: "output_ids", data_type: TYPE_INT32, dims: [ -1 ] }
]
instance_group [ { kind: KIND_CPU, count: 1 } ]
"""


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_servers(tmp_path_factory.mktemp) as start:
        running = start({"max_rows": 16})
        running.wait_ready()
        yield running


@pytest.fixture(scope="session")
def late_final(server: LiveServer) -> str:
    """The name of a model that sends FINAL in a response of its own."""
    version = server.folder / "models" / "late_final" / "1"
    version.mkdir(parents=True)
    (version / "model.py").write_text(LATE_FINAL)
    (version.parent / "config.pbtxt").write_text(LATE_FINAL_CONFIG)
    load = urllib.request.Request(f"{server.http_url}/v2/repository/models/late_final/load", data=b"", method="POST")
    with urllib.request.urlopen(load, timeout=60) as answer:
        assert answer.status == 200
    return "late_final"
