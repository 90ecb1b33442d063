"""The rounds: traffic with a fault in the middle, then silence, in which the server must hold nothing."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.pa.run import Target
from benchmarks.soak.faults import Fault, inject
from benchmarks.soak.health import Held, growth, look, reading, still_held
from benchmarks.soak.http_client import HttpClient
from benchmarks.soak.ledger import Ledger, Outcome, summed
from benchmarks.soak.traffic import plan_round
from benchmarks.suite.load.generator import send_calls
from flover_backend.config import ModelJson
from flover_backend.errors import FloverError
from flover_backend.server import ServerOptions, TritonServer
from flover_backend.top.scrape import ScrapeFailed

ROUNDS = 8
"""Of a short soak; rounds of longer ones are as long as `MOST_ROUND_S`."""
LEAST_ROUND_S, MOST_ROUND_S = 6.0, 60.0
FAULT_AT = 0.55
"""Of a round's time."""
KV_TOKENS = 16384
"""All of it is written to in the first rounds: what is not takes no memory on a CPU, and looks like a leak later."""
LIMIT_S = 120.0
"""A request that has no end by then is lost."""
SETTLE_S = 60.0
COUNTERS_S = 20.0
LOG_S = 1.5
"""The log's lines and the metrics' last snapshot come a moment after a request's end."""
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Asked:
    """The command line."""

    minutes: float
    seed: int
    with_faults: bool
    rate: float
    burst: int
    folder: Path
    """For the server's log."""
    max_rows: int = 8
    max_queued_requests: int = 16
    instances: int = 2

    @property
    def round_s(self) -> float:
        """Seconds of traffic in a round."""
        return min(MOST_ROUND_S, max(LEAST_ROUND_S, self.minutes * 60 / ROUNDS - 4))


@dataclass(slots=True)
class Result:
    """Of a soak."""

    ledger: Ledger = field(default_factory=Ledger)
    faults: Counter[Fault] = field(default_factory=Counter)
    held: list[Held] = field(default_factory=list)
    """After each round."""
    problems: list[str] = field(default_factory=list)
    """Of the server as a whole; those of requests are the ledger's."""
    seconds: float = 0.0

    @property
    def all_problems(self) -> list[str]:
        """Empty: nothing was lost and nothing grew."""
        return self.ledger.problems + self.problems


class Soak:
    """Owns the server and the result."""

    def __init__(self, asked: Asked, tell: Tell) -> None:
        self._asked, self._tell = asked, tell
        self._log = asked.folder / "server.log"
        self.result = Result()

    def run(self) -> Result:
        """Rounds until the time is over, at least one. Raises `ServerFailed`, `MeasurementFailed`."""
        asked = self._asked
        asked.folder.mkdir(parents=True, exist_ok=True)
        self._log.unlink(missing_ok=True)
        # NOTE: restarts are the fault that is injected here; that they are used up one day is another one's test.
        config = ModelJson(
            max_rows=asked.max_rows,
            max_queued_requests=asked.max_queued_requests,
            kv_cache_tokens=KV_TOKENS,
            engine_restarts=1000,
            engine_restart_window_s=60,
        )
        options = ServerOptions(config=config, instances=asked.instances, log_file=self._log)
        faults = itertools.cycle(Fault) if asked.with_faults else itertools.repeat(Fault.NONE)
        with TritonServer(options) as server:
            self._settle(server)  # the metrics are the last of Triton's services to start
            started = time.monotonic()
            for number, fault in enumerate(faults):
                self._round(server, number, fault)
                self.result.seconds = time.monotonic() - started
                if self.result.seconds >= asked.minutes * 60:
                    break
        self.result.problems += growth(self.result.held)
        return self.result

    def _round(self, server: TritonServer, number: int, fault: Fault) -> None:
        asked, result = self._asked, self.result
        before, place = _num_ended(server), self._log.stat().st_size
        planned = plan_round(
            number,
            asked.round_s,
            asked.rate,
            asked.burst,
            asked.seed,
            server.options.name,
            engine_dies=fault.ends_an_engine,
        )
        http = HttpClient(server.http_url, server.options.name, number, asked.seed)
        injector = threading.Thread(target=self._inject, args=(fault, server, number), daemon=True)

        def start(at: float) -> None:
            http.start()
            injector.start()

        answers = send_calls(
            Target(server.grpc_url, server.options.name), [one.call for one in planned], 1, LIMIT_S, on_start=start
        )
        http.stop()
        http.join()
        injector.join()
        self._settle(server)
        with self._log.open("rb") as file:
            file.seek(place)
            lines = file.read().decode(errors="replace")
        accepted, cancelled = result.ledger.accepted, result.ledger.accepted_ends[Outcome.CANCELLED]
        result.ledger.enter(planned + http.planned, answers + http.answers, lines, engine_faults=fault.ends_an_engine)
        if fault is Fault.NONE:
            self._check_counters(
                before,
                server,
                result.ledger.accepted - accepted,
                result.ledger.accepted_ends[Outcome.CANCELLED] - cancelled,
            )
        result.faults[fault] += 1
        result.held.append(look(server))
        told = Counter(result.ledger.outcomes)
        self._tell(
            f"round {number + 1}, {fault.value}: {summed(told.items())}; {result.held[-1].in_words()}; "
            f"{len(result.all_problems)} problems"
        )

    def _inject(self, fault: Fault, server: TritonServer, number: int) -> None:
        time.sleep(self._asked.round_s * FAULT_AT)
        try:
            inject(fault, server, number)
        except (FloverError, OSError) as error:
            self.result.problems.append(f"round {number + 1}, {fault.value}: {error}")

    def _settle(self, server: TritonServer) -> None:
        """Nobody asks anything: the server holds nothing any more, is ready, and old instances are gone."""
        deadline = time.monotonic() + SETTLE_S
        while (held := self._not_settled(server)) and time.monotonic() < deadline:
            time.sleep(0.2)
        time.sleep(LOG_S)
        if held:
            self.result.problems.append(f"after {SETTLE_S:g} s of silence {held}")
        failures = reading(server).value("flover_integrity_failures_total")
        if failures:
            self.result.problems.append(f"flover_integrity_failures_total is {failures:g}")

    def _not_settled(self, server: TritonServer) -> str:
        regions = look(server).regions
        if regions != self._asked.instances:
            return f"{regions} regions of shared memory are there for {self._asked.instances} instances"
        try:
            return still_held(reading(server)) or ("" if server.is_ready() else "the model is not ready")
        except ScrapeFailed as error:
            return str(error)

    def _check_counters(self, before: float, server: TritonServer, accepted: int, cancelled: int) -> None:
        """In a round without a fault /metrics come to count what the log has said.

        All but those among the `cancelled` that the engine had refused when their front heard of the cancel.
        """
        deadline = time.monotonic() + COUNTERS_S
        while (ended := _num_ended(server) - before) < accepted - cancelled and time.monotonic() < deadline:
            time.sleep(0.2)
        if not accepted - cancelled <= ended <= accepted:
            self.result.problems.append(
                f"{ENDED} counted {ended:g} requests, the log has {accepted}, {cancelled} of them cancelled"
            )


def _num_ended(server: TritonServer) -> float:
    """Accepted requests that are over, by /metrics."""
    return sum(reading(server).by_label(ENDED).values())


ENDED = "flover_requests_finished_total"
