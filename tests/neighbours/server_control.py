"""Triton's repository calls, and the engine processes that a server has."""

from __future__ import annotations

import json
import time

from live_metrics import Scrape, ours
from live_server import LiveServer, wait_for
from triton_client import post

from flover_backend.engine_files import described_engines

LOAD_TIMEOUT_S = 60
"""Against a hang."""


def repository_call(server: LiveServer, action: str, model: str) -> tuple[int, str]:
    """(HTTP status, body) of `load` or `unload`."""
    return post(f"{server.http_url}/v2/repository/models/{model}/{action}", {}, LOAD_TIMEOUT_S)


def load(server: LiveServer, model: str) -> None:
    status, answer = repository_call(server, "load", model)
    assert status == 200, answer


def unload(server: LiveServer, model: str) -> None:
    """Returns when its engines are gone."""
    status, answer = repository_call(server, "unload", model)
    assert status == 200, answer
    wait_for(lambda: engines_of(server, model) == [], timeout_s=30)


def engines_of(server: LiveServer, model: str, version: int | None = None) -> list[int]:
    """Process ids, in order of version."""
    found = [description for _, description in described_engines(server.process.pid)]
    named = [one for one in found if one.model_name == model and version in (None, int(one.model_version))]
    return [one.engine_pid for one in sorted(named, key=lambda one: int(one.model_version))]


def states(server: LiveServer, model: str) -> dict[int, str]:
    """Version -> state, of the versions that the server knows of."""
    _, answer = post(f"{server.http_url}/v2/repository/index", {})
    return {int(entry["version"]): entry["state"] for entry in json.loads(answer) if _is_version_of(entry, model)}


def _is_version_of(entry: dict[str, str], model: str) -> bool:
    return entry["name"] == model and "version" in entry


def ready_versions(server: LiveServer, model: str) -> list[int]:
    return [version for version, state in states(server, model).items() if state == "READY"]


def settled(server: LiveServer) -> Scrape:
    """Our series, all models', once two scrapes in a row are alike: idle engines have written their last."""
    last: list[Scrape] = [{}]

    def is_settled() -> bool:
        previous, last[0] = last[0], ours(server.metrics())
        time.sleep(1)
        return previous == last[0]

    wait_for(is_settled, timeout_s=60)
    return last[0]


def infos(scrape: Scrape, model: str) -> list[str]:
    """The series of flover_model_info that are 1: what is loaded. A series outlives what it spoke of, with value 0."""
    return [
        name
        for name, value in scrape.items()
        if name.startswith("flover_model_info") and f'model="{model}"' in name and value
    ]
