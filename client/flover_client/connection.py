"""How a client reaches its server: gRPC's options, TLS, headers. Knows no requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

KEEPALIVE_S = 330.0
"""A little more than the 300 s below which Triton, unless told otherwise, takes pings for an attack and hangs up."""
MAX_PING_TIMEOUT_S = 20.0
RECONNECT_MS = 1000
"""gRPC's own 120 s at most would leave a client without a server for minutes after it is back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """An encrypted connection. The files are PEM.

    ca_file: whom to trust; None for the authorities that gRPC brings. cert_file and key_file: what this client shows
    to a server that asks. server_name: the name in the server's certificate where it is not the URL's host.
    """

    ca_file: str | Path | None = None
    cert_file: str | Path | None = None
    key_file: str | Path | None = None
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("Tls: cert_file and key_file belong together; give both or neither")

    def credentials(self) -> Any:
        """Raises OSError when a file cannot be read."""
        return grpc.ssl_channel_credentials(_read(self.ca_file), _read(self.key_file), _read(self.cert_file))


def channel_arguments(url: str, tls: Tls | None, keepalive_s: float) -> dict[str, Any]:
    """For `grpc.secure_channel` with `tls`, else for `grpc.insecure_channel`; and their likes in grpc.aio."""
    if "://" in url:
        raise ValueError(f"url: got {url!r}; allowed: HOST:PORT of the server's gRPC endpoint, without a scheme")
    ping_timeout_ms = round(min(keepalive_s, MAX_PING_TIMEOUT_S) * 1000)
    options: list[tuple[str, int | str]] = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.keepalive_time_ms", round(keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", ping_timeout_ms),
        ("grpc.http2.ping_timeout_ms", ping_timeout_ms),  # what newer releases of gRPC look at
        # NOTE: without it gRPC sends two pings and then no more, for only the server sends data in our streams.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.initial_reconnect_backoff_ms", RECONNECT_MS // 10),
        ("grpc.min_reconnect_backoff_ms", RECONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
    ]
    if tls is None:
        return {"target": url, "options": options}
    if tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return {"target": url, "options": options, "credentials": tls.credentials()}


def metadata(headers: Mapping[str, str] | None) -> tuple[tuple[str, str], ...]:
    """HTTP/2's header names are lower case."""
    return tuple((name.lower(), value) for name, value in (headers or {}).items())


def _read(path: str | Path | None) -> bytes | None:
    return None if path is None else Path(path).read_bytes()
