"""How the client reaches a server: TLS, headers, versions, a dead line, a server that returns. Bare gRPC servers."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pytest
from live_server import free_ports, wait_for
from tritonclient.grpc import service_pb2, service_pb2_grpc

from flover_client import AsyncClient, Client, ConnectionFailed, RequestTimeout, Tls
from flover_client.connection import KEEPALIVE_S


class Servicer(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Refuses what it gets and remembers it; a prompt of one id is never answered."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.released = threading.Event()

    def ModelReady(self, request: Any, context: Any) -> Any:
        self._note(request.name, request.version, context)
        return service_pb2.ModelReadyResponse(ready=True)

    def ModelStreamInfer(self, requests: Iterator[Any], context: Any) -> Iterator[Any]:
        (request,) = requests
        self._note(request.model_name, request.model_version, context)
        if request.inputs[0].shape[0] == 1 and request.inputs[0].name == "input_ids":
            self.released.wait(60)
        yield service_pb2.ModelStreamInferResponse(error_message="refused [INVALID_ARG]")

    def _note(self, model: str, version: str, context: Any) -> None:
        self.seen.append((model, version, dict(context.invocation_metadata())))


StartPlayed = Callable[..., tuple[int, Servicer]]


@pytest.fixture
def start() -> Iterator[StartPlayed]:
    """start(credentials=None, port=0) -> (port, servicer)."""
    with ExitStack() as stack:

        def start_one(credentials: Any = None, port: int = 0) -> tuple[int, Servicer]:
            servicer = Servicer()
            server = grpc.server(stack.enter_context(ThreadPoolExecutor(4)))
            service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
            address = f"127.0.0.1:{port}"
            bound = (
                server.add_insecure_port(address)
                if credentials is None
                else server.add_secure_port(address, credentials)
            )
            server.start()
            stack.callback(lambda: server.stop(None).wait())
            stack.callback(servicer.released.set)
            return bound, servicer

        yield start_one


def refused_sync(url: str, **options: Any) -> None:
    """One request, which the played server refuses; raises what else happens."""
    with Client(url, **options) as client, suppress_refusal():
        client.generate("x")


def refused_async(url: str, **options: Any) -> None:
    async def ask() -> None:
        async with AsyncClient(url, **options) as client:
            with suppress_refusal():
                await client.generate("x")

    asyncio.run(ask())


def suppress_refusal() -> suppress:
    from flover_client import InvalidArgument

    return suppress(InvalidArgument)


BOTH = pytest.mark.parametrize("ask", [refused_sync, refused_async])


@BOTH
def test_headers_and_version(start: StartPlayed, ask: Callable[..., None]) -> None:
    port, servicer = start()
    ask(f"127.0.0.1:{port}", model="chat", version="3", headers={"Authorization": "Bearer t", "x-team": "a"})
    ((model, version, headers),) = servicer.seen
    assert (model, version) == ("chat", "3")
    assert (headers["authorization"], headers["x-team"]) == ("Bearer t", "a")
    with Client(f"127.0.0.1:{port}", "chat", version="3", headers={"x-team": "b"}) as client:
        assert client.is_ready()
    assert servicer.seen[1][:2] == ("chat", "3")
    assert servicer.seen[1][2]["x-team"] == "b"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ca.pem, and for the names server and client each a key and a certificate by that authority."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True, timeout=60)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=authority")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (folder / "names").write_text("subjectAltName=DNS:models.example")
        signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names")
        openssl("x509", "-req", "-in", f"{name}.csr", "-out", f"{name}.pem", *signing)
    return folder


def server_credentials(folder: Path, *, mutual: bool) -> Any:
    pair = ((folder / "server.key").read_bytes(), (folder / "server.pem").read_bytes())
    return grpc.ssl_server_credentials([pair], (folder / "ca.pem").read_bytes(), require_client_auth=mutual)


@BOTH
@pytest.mark.parametrize("mutual", [False, True])
def test_tls(start: StartPlayed, certificates: Path, ask: Callable[..., None], mutual: bool) -> None:
    port, servicer = start(server_credentials(certificates, mutual=mutual))
    url, own = f"127.0.0.1:{port}", {}
    if mutual:
        own = {"cert_file": certificates / "client.pem", "key_file": str(certificates / "client.key")}
    ask(url, tls=Tls(ca_file=certificates / "ca.pem", server_name="models.example", **own))
    assert len(servicer.seen) == 1
    bad = {
        "no TLS": None,
        "an unknown authority": Tls(server_name="models.example", **own),
        "another name": Tls(ca_file=certificates / "ca.pem", **own),
    }
    if mutual:
        bad["no certificate"] = Tls(ca_file=certificates / "ca.pem", server_name="models.example")
    for tls in bad.values():
        with pytest.raises(ConnectionFailed):
            ask(url, tls=tls, timeout_s=20)
    assert len(servicer.seen) == 1


def test_tls_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cert_file and key_file belong together"):
        Tls(cert_file="client.pem")
    with pytest.raises(FileNotFoundError, match=r"nope\.pem"):
        Client(tls=Tls(ca_file=tmp_path / "nope.pem"))


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_a_url_with_a_scheme(make: Callable[[str], object]) -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        make("http://127.0.0.1:8001")


def test_another_protocol_on_the_port() -> None:
    """Such as Triton's HTTP port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                    connection.close()

        threading.Thread(target=answer, daemon=True).start()
        with Client(f"127.0.0.1:{listener.getsockname()[1]}") as client, pytest.raises(ConnectionFailed):
            client.generate("x", timeout_s=20)


class Relay:
    """Passes bytes between one client and a server until it is told to go dumb; connections stay open."""

    def __init__(self, port: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._target = port
        self._is_dumb = threading.Event()
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def go_dumb(self) -> None:
        self._is_dumb.set()

    def close(self) -> None:
        for one in [self._listener, *self._sockets]:
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                far = socket.create_connection(("127.0.0.1", self._target))
                self._sockets += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if not self._is_dumb.is_set():
                    sink.sendall(data)


@pytest.mark.parametrize("is_async", [False, True])
def test_a_line_that_went_dead(start: StartPlayed, is_async: bool) -> None:
    """No packet says so: the probe finds out, and the one that waits is told."""
    port, servicer = start()
    relay = Relay(port)

    def hang_up_when_asked() -> None:
        wait_for(lambda: bool(servicer.seen))
        relay.go_dumb()

    threading.Thread(target=hang_up_when_asked, daemon=True).start()

    async def ask() -> None:
        async with AsyncClient(relay.url, keepalive_s=0.5) as client:
            await client.generate([5], timeout_s=60)

    with pytest.raises(ConnectionFailed):
        if is_async:
            asyncio.run(ask())
        else:
            with Client(relay.url, keepalive_s=0.5) as client:
                client.generate([5], timeout_s=60)
    relay.close()


def test_a_server_that_waits_is_not_taken_for_dead(start: StartPlayed) -> None:
    port, _ = start()
    with Client(f"127.0.0.1:{port}", keepalive_s=0.5) as client, pytest.raises(RequestTimeout):
        client.generate([5], timeout_s=1.2)
    assert KEEPALIVE_S > 300, "Triton's limit"


def test_a_server_that_comes_back(start: StartPlayed) -> None:
    """The same client, without minutes of waiting between two tries."""
    (port,) = free_ports(1)
    with Client(f"127.0.0.1:{port}") as client:
        for _ in range(20):
            assert not client.is_ready()
        start(port=port)
        wait_for(client.is_ready)


def test_a_closed_client() -> None:
    client = Client()
    client.close()
    for call in (lambda: client.generate("x"), lambda: client.stream("x"), client.is_ready):
        with pytest.raises(RuntimeError, match="this client is closed"):
            call()

    async def ask() -> None:
        other = AsyncClient()
        await other.aclose()
        with pytest.raises(RuntimeError, match="this client is closed"):
            await other.generate("x")

    asyncio.run(ask())
