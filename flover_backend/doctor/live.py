"""A server that runs, asked over HTTP: does it answer, which control mode has it, what models of this backend.

Nothing is changed: the control mode shows in how the server takes the unload of a model that it cannot have.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from flover_backend.errors import ConfigError
from flover_backend.front.tensors import INPUTS, check_model_config
from flover_backend.host.checks import Check

TIMEOUT_S = 10.0
_OWN_TENSORS = {spec.name for spec in INPUTS}
PROBES_TURN_RED = (2, 63)
"""From this release on (25.12) a model whose engine is gone is not ready, whatever the control mode."""


class _NoAnswerError(Exception):
    pass


def check_live(url: str) -> list[Check]:
    """`url`: HOST:PORT or http://HOST:PORT of Triton's HTTP service."""
    base = _base(url)
    if base is None:
        return [Check("fail", "server", f"--url {url!r} is no address", "give HOST:PORT of Triton's HTTP service")]
    try:
        return list(_checks(base))
    except _NoAnswerError as error:
        advice = "start it, or give the address of its HTTP service (--http-port, 8000)"
        return [Check("fail", "server", f"{base} does not answer: {error}", advice)]


def _checks(base: str) -> Iterator[Check]:
    status, told = _ask(f"{base}/v2")
    if status != 200 or not isinstance(told, dict) or "version" not in told:
        raise _NoAnswerError(f"GET /v2 gives {status}, and no server's metadata")
    version = str(told["version"])
    yield Check("ok", "server", f"{told.get('name', 'triton')} {version} at {base}")
    yield _control_mode(base, version)
    status, index = _ask(f"{base}/v2/repository/index", {})
    if status != 200 or not isinstance(index, list):
        yield Check("warn", "models", f"the repository's index gives {status}: {index}", "it may be a restricted API")
        return
    ours = 0
    for name in dict.fromkeys(str(entry["name"]) for entry in index):
        checks = list(_model(base, name, [entry for entry in index if entry["name"] == name]))
        ours += bool(checks)
        yield from checks
    if not ours:
        yield Check("warn", "models", "none of this backend is loaded", "load one: v2/repository/models/NAME/load")


def _control_mode(base: str, version: str) -> Check:
    status, told = _ask(f"{base}/v2/repository/models/no-such-model-{uuid.uuid4()}/unload", {})
    name = "control mode"
    if status == 200:
        return Check("ok", name, "explicit: a model whose engine is gone for good is unloaded")
    if "explicit model load / unload is not allowed" in str(told):
        text = "not explicit: a model whose engine is gone for good cannot be unloaded"
        if tuple(int(part) for part in version.split(".")[:2]) >= PROBES_TURN_RED:
            return Check("ok", name, f"{text}; this release says by itself that it is not ready")
        advice = (
            "--model-control-mode=explicit --load-model=NAME: its readiness stays green below Triton 25.12 otherwise"
        )
        return Check("warn", name, text, advice)
    return Check("warn", name, f"unknown: an unload gives {status}: {told}", "it may be a restricted API")


def _model(base: str, name: str, entries: list[dict[str, Any]]) -> Iterator[Check]:
    """Nothing for a model of another backend."""
    states = {str(entry.get("version", "?")): entry for entry in entries}
    unready = [entry for entry in entries if entry.get("state") not in ("READY", None)]
    status, config = _ask(f"{base}/v2/models/{name}/config")
    if status != 200 or not isinstance(config, dict):
        for entry in unready:
            reason = entry.get("reason") or "no reason given"
            if reason != "unloaded":
                text = f"{name} version {entry.get('version', '?')} is {entry.get('state')}: {reason}"
                yield Check("warn", f"model {name}", text, "the server's log says why, if it is of this backend")
        return
    if not {tensor["name"] for tensor in config.get("input", [])} >= _OWN_TENSORS:
        return
    ready, _ = _ask(f"{base}/v2/models/{name}/ready")
    try:
        check_model_config(config)
    except ConfigError as error:
        yield Check(
            "fail", f"model {name}", str(error).split("\n", maxsplit=1)[0], "mend its config.pbtxt and reload it"
        )
        return
    count = sum(int(group.get("count", 1)) for group in config.get("instance_group", []))
    text = f"version {', '.join(states)}, {count} instance{'s' * (count != 1)}"
    if ready == 200:
        yield Check("ok", f"model {name}", f"ready; {text}")
    else:
        yield Check("fail", f"model {name}", f"not ready ({ready}); {text}", "the server's log says why; reload it")


def _base(url: str) -> str | None:
    parts = urlsplit(url if "://" in url else f"http://{url}")
    try:
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return None
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/')}" if known else None


def _ask(url: str, body: Any = None) -> tuple[int, Any]:
    """Status and JSON (or text) of an answer, an error's too. Raises `_NoAnswerError`."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": "application/json"})
    try:
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                return answer.status, _value(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                return error.code, _value(error.read())
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise _NoAnswerError(getattr(reason, "strerror", None) or str(reason)) from None
    except Exception as error:  # NOTE: http.client raises what is no OSError for what is no HTTP.
        raise _NoAnswerError(f"no HTTP: {error!r}") from None


def _value(data: bytes) -> Any:
    text = data.decode(errors="replace")
    try:
        return json.loads(text) if text else None
    except ValueError:
        return text
