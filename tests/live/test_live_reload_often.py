"""Twenty loads and unloads while clients ask on: nothing grows from the third on, and nothing is left at the end."""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from live_server import LiveServer, StartServer, runtime_files, wait_for
from process_figures import Holdings, holdings_of
from triton_client import ask, ids_of, post

CYCLES = 20
SETTLED_AFTER = 3
SHORT = {"temperature": 0, "max_tokens": 24, "ignore_eos": True}
EXPECTED = ("", "unknown model", "is not ready", "[UNAVAILABLE]")
"""Served; or what a client is told of a model that is not loaded, or goes."""


class Traffic:
    """Clients that ask on whatever they are told; every request has its end, and a whole answer is the right one."""

    def __init__(self, server: LiveServer) -> None:
        self.ends: Counter[str] = Counter()
        self._server = server
        self._right = [ids_of(ask(server.grpc_url, [5, number], SHORT)) for number in range(2)]
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(number,)) for number in range(2)]

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()

    def _ask(self, number: int) -> None:
        for turn in itertools.count():
            if self._stop.wait(0.05):
                return
            answers = ask(self._server.grpc_url, [5, number], SHORT, stream=bool(turn % 2))
            if not answers[-1].error and ids_of(answers) != self._right[number]:
                self.ends["wrong tokens"] += 1
            self.ends[answers[-1].error] += 1

    def unexpected(self) -> dict[str, int]:
        return {
            text: count for text, count in self.ends.items() if not any(part in text for part in EXPECTED[1:]) and text
        }


def repository_call(server: LiveServer, action: str) -> None:
    status, text = post(f"{server.http_url}/v2/repository/models/flover/{action}", {})
    assert status == 200, text


def cycle(server: LiveServer, traffic: Traffic) -> Holdings:
    """Unload, load, and a request is served; what the loaded server holds."""
    repository_call(server, "unload")
    wait_for(lambda: server.descendants() == [] and runtime_files(server) == [], timeout_s=60)
    repository_call(server, "load")
    served = traffic.ends[""]
    wait_for(lambda: traffic.ends[""] > served, timeout_s=60)
    return holdings_of(server)


@pytest.mark.slow
def test_nothing_grows_with_loads_and_unloads(start_server: StartServer) -> None:
    """The margins: malloc's arenas and Triton's pool of gRPC threads breathe; a leak of a thread, a descriptor, a
    region or a file a cycle would be 17."""
    server = start_server(instances=2)
    server.wait_ready()
    traffic = Traffic(server)
    with traffic.running():
        held = [cycle(server, traffic) for _ in range(CYCLES)]
    assert traffic.unexpected() == {}
    before, after = held[SETTLED_AFTER - 1], held[-1]
    shown = "\n".join(map(str, held))
    assert after.server.memory_mib < before.server.memory_mib + 6, shown
    assert after.server.threads < before.server.threads + 6, shown
    assert after.server.file_descriptors < before.server.file_descriptors + 6, shown
    assert (after.regions, after.files) == (before.regions, before.files) == (2, 4), shown
    assert after.others.processes == before.others.processes == 3, shown
    assert after.others.memory_mib < before.others.memory_mib * 1.1, shown
    assert after.others.threads <= before.others.threads + 4, shown
    assert after.others.file_descriptors <= before.others.file_descriptors + 4, shown
    print(shown)
    server.stop()
    assert runtime_files(server) == []
