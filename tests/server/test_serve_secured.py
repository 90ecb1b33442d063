"""docs/security.md's example as it stands there: `flover serve` with TLS for gRPC, and a key for what administers."""

from __future__ import annotations

import json
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import trustme
from commands import Command, marked
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

READY = r"(?m)^flover: model flover is ready: gRPC (\S+), HTTP (\S+), metrics \S+$"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "security.md"
KEY = "s3cret"


class Secured:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        authority = trustme.CA()
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
        certificate.private_key_pem.write_to_path(str(folder / "server-key.pem"))
        trustme.CA().cert_pem.write_to_path(str(folder / "stranger.pem"))
        ports = ("--grpc-port", "0", "--http-port", "0", "--metrics-port", "0")
        self.command = Command(folder, "serve", *ports, "--", *documented_options(folder))
        found = self.command.wait_for(READY)
        self.grpc_port, self.http_url = found[1].rpartition(":")[2], f"http://{found[2]}"

    def client(self, authority: str = "ca.pem") -> grpcclient.InferenceServerClient:
        return grpcclient.InferenceServerClient(
            f"localhost:{self.grpc_port}", ssl=True, root_certificates=str(self.folder / authority)
        )

    def repository(self, metadata: tuple[tuple[str, str], ...]) -> list[str]:
        """Names that Triton's repository protocol lists to who sends `metadata`."""
        credentials = grpc.ssl_channel_credentials((self.folder / "ca.pem").read_bytes())
        with grpc.secure_channel(f"localhost:{self.grpc_port}", credentials) as channel:
            stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
            answer = stub.RepositoryIndex(service_pb2.RepositoryIndexRequest(), metadata=metadata, timeout=30)
        return [model.name for model in answer.models]

    def http(self, path: str, headers: dict[str, str], body: dict[str, object]) -> tuple[int, str]:
        request = urllib.request.Request(self.http_url + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()


def documented_options(folder: Path) -> list[str]:
    """The options of tritonserver that the document's example gives, with this test's files and key."""
    (block,) = re.findall(r"```sh\nflover serve -- (.*?)```", DOCUMENT.read_text(), re.DOTALL)
    options = [option for option in block.replace("\\\n", " ").split() if option.startswith("--")]
    assert len(options) == 5
    return [option.replace("/etc/flover", str(folder)).replace("$KEY", KEY) for option in options]


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    server = Secured(tmp_path_factory.mktemp("secured"))
    yield server
    server.command.process.send_signal(signal.SIGTERM)
    status = server.command.wait(90)
    left = server.command.leftovers()
    for pid in marked(server.command.mark):
        os.kill(pid, signal.SIGKILL)
    assert (status, left) == (0, [])


def generate(client: grpcclient.InferenceServerClient) -> list[int]:
    """Tokens over a stream of `client`."""
    answers: list[object] = []
    tensors = []
    for name, values in (("input_ids", [5, 6, 7]), ("max_tokens", [3])):
        tensors.append(grpcclient.InferInput(name, [len(values)], "INT32"))
        tensors[-1].set_data_from_numpy(np.array(values, np.int32))
    tensors.append(grpcclient.InferInput("ignore_eos", [1], "BOOL"))
    tensors[-1].set_data_from_numpy(np.array([True]))
    client.start_stream(lambda result, error: answers.append(error or result.as_numpy("output_ids").tolist()))
    client.async_stream_infer("flover", tensors)
    client.stop_stream()
    (answer,) = answers
    if isinstance(answer, Exception):
        raise answer
    return answer  # type: ignore[return-value]


def test_requests_go_over_tls(secured: Secured) -> None:
    with secured.client() as client:
        assert client.is_model_ready("flover")
        assert len(generate(client)) == 3


def test_a_client_without_tls_gets_nothing(secured: Secured) -> None:
    with (
        grpcclient.InferenceServerClient(f"localhost:{secured.grpc_port}") as client,
        pytest.raises(InferenceServerException),
    ):
        client.is_server_live(client_timeout=20)


def test_a_client_that_trusts_another_authority_does_not_talk(secured: Secured) -> None:
    with secured.client("stranger.pem") as client, pytest.raises(InferenceServerException):
        client.is_server_live(client_timeout=20)


@pytest.mark.parametrize("metadata", [(), (("triton-grpc-protocol-admin-key", "wrong"),)], ids=["none", "wrong"])
def test_the_repository_asks_grpc_clients_for_the_key(secured: Secured, metadata: tuple[tuple[str, str], ...]) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        secured.repository(metadata)
    assert "triton-grpc-protocol-admin-key" in caught.value.details()


def test_the_key_opens_the_repository(secured: Secured) -> None:
    assert secured.repository((("triton-grpc-protocol-admin-key", KEY),)) == ["flover"]


def test_http_asks_for_the_key_too_and_serves_requests_without(secured: Secured) -> None:
    status, text = secured.http("/v2/repository/index", {}, {})
    assert status == 403
    assert "admin-key" in text
    assert secured.http("/v2/repository/index", {"admin-key": KEY}, {})[0] == 200
    unload = "/v2/repository/models/flover/unload"
    assert secured.http(unload, {"admin-key": "wrong"}, {})[0] == 403
    assert secured.http("/v2/models/flover/generate", {}, {"text_input": "Hi", "max_tokens": 2})[0] == 200
