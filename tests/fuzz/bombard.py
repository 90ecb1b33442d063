"""`make fuzz-live`: malformed requests to a live server over gRPC, HTTP and the engine's socket, all three at once.

    .venv/bin/python tests/fuzz/bombard.py --requests 21000 --seed 1

Each is answered (an error, or tokens where the damage left a good request), or its connection is closed as the
protocol's rules have it: Triton's for HTTP that is none, ours for a peer that sends garbage. After each hundred a good
request must give the tokens that it gave at first. At the end every process is the one it was, nothing is held, and
the log holds no error. Ends with 1 otherwise.
"""

from __future__ import annotations

import argparse
import random
import signal
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

HERE = Path(__file__).resolve().parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parents[1]), str(HERE.parent / "live")]

from hostile_channel import ChannelPeer  # noqa: E402
from hostile_grpc import GrpcPeer  # noqa: E402
from hostile_http import HttpPeer  # noqa: E402
from live_metrics import wait_idle  # noqa: E402
from live_server import LiveServer, live_servers  # noqa: E402
from triton_client import ask, ids_of  # noqa: E402

from flover_backend.observer import find_engines  # noqa: E402

GOOD = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}
EVERY = 100
SMALL = {"max_model_len": 256, "max_queued_requests": 64}
"""So that what is accepted by chance is over soon."""


class Peer(Protocol):
    def send(self, chance: random.Random) -> str: ...

    def close(self) -> None: ...


class Bombardment:
    """Counts what became of each request, by way."""

    def __init__(self, server: LiveServer, seed: int) -> None:
        self.server = server
        self.outcomes: dict[str, Counter[str]] = {"gRPC": Counter(), "HTTP": Counter(), "engine": Counter()}
        self.faults: list[str] = []
        self.good_requests = 0
        self._seed = seed
        self._lock = threading.Lock()
        self._expected = ids_of(ask(server.grpc_url, [5, 6, 7], GOOD))
        self._processes = processes(server)
        self._logged = len(server.log())

    def run(self, num_requests: int, tell: Callable[[str, int], None] = lambda way, sent: None) -> None:
        """`num_requests` in all, a third each way. `tell(way, sent)` after each hundred."""
        (engine,) = find_engines(self.server.process.pid)
        peers: dict[str, Callable[[], Peer]] = {
            "gRPC": lambda: GrpcPeer(self.server.grpc_url),
            "HTTP": lambda: HttpPeer(self.server.http_port),
            "engine": lambda: ChannelPeer(engine),
        }
        each = -(-num_requests // len(peers))
        threads = [threading.Thread(target=self._bombard, args=(way, make, each, tell)) for way, make in peers.items()]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self._check_end()

    def _bombard(self, way: str, make: Callable[[], Peer], count: int, tell: Callable[[str, int], None]) -> None:
        peer = make()
        try:
            for number in range(count):
                outcome, _, why = peer.send(random.Random(f"{self._seed} {way} {number}")).partition(":")
                self.outcomes[way][outcome] += 1
                if outcome == "unanswered":
                    self.faults.append(f"{way} request {number}: {why.strip()}")
                if number % EVERY == EVERY - 1:
                    self._good_request(way, number)
                    tell(way, number + 1)
                if len(self.faults) > 10:
                    return
        except Exception as error:
            self.faults.append(f"{way}: {type(error).__name__}: {error}")
        finally:
            peer.close()

    def _good_request(self, way: str, number: int) -> None:
        answers = ask(self.server.grpc_url, [5, 6, 7], GOOD)
        with self._lock:
            self.good_requests += 1
        if answers[-1].error or ids_of(answers) != self._expected:
            self.faults.append(f"after {way} request {number}: {answers[-1].error or ids_of(answers)}")

    def _check_end(self) -> None:
        if self.server.process.poll() is not None:
            self.faults.append(f"the server ended with {self.server.process.returncode}")
            return
        if processes(self.server) != self._processes:
            self.faults.append(f"processes were {self._processes}, are {processes(self.server)}")
        wait_idle(self.server)
        bad = [line for line in self.server.log()[self._logged :].splitlines() if is_fault(line)]
        self.faults += [f"log: {line[:300]}" for line in bad[:10]]


def processes(server: LiveServer) -> dict[str, list[int]]:
    """Process ids: the server's, its stubs', the engine's."""
    (engine,) = find_engines(server.process.pid)
    return {
        "server": [server.process.pid],
        "engine": [engine.description.engine_pid],
        "descendants": sorted(server.descendants()),
    }


def is_fault(line: str) -> bool:
    """A line of the log that a bad request must not cause."""
    words = ("Traceback", "could not be read", "could not be sent", "integrity check failed", "could not be queued")
    return any(word in line for word in words) or ("flover" in line and line.startswith("E"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=21_000)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the server ends too

    def tell(way: str, sent: int) -> None:
        if sent % 1000 == 0:
            print(f"fuzz: {way}: {sent} sent", flush=True)

    with tempfile.TemporaryDirectory(prefix="flover-fuzz-") as folder:
        numbers = iter(range(1000))

        def make_folder(name: str) -> Path:
            path = Path(folder) / f"{name}{next(numbers)}"
            path.mkdir()
            return path

        with live_servers(make_folder) as start:
            server = start(SMALL, instances=2)
            server.wait_ready()
            bombardment = Bombardment(server, arguments.seed)
            bombardment.run(arguments.requests, tell)
    for way, outcomes in bombardment.outcomes.items():
        told = ", ".join(f"{count} {outcome}" for outcome, count in sorted(outcomes.items()))
        print(f"fuzz: {way}: {sum(outcomes.values())} malformed requests: {told}")
    print(f"fuzz: {bombardment.good_requests} good requests between them, {len(bombardment.faults)} faults")
    for fault in bombardment.faults:
        print(f"fuzz: FAULT {fault}")
    return 1 if bombardment.faults else 0


if __name__ == "__main__":
    sys.exit(main())
