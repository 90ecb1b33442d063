"""`python -m benchmarks.neighbours`: what another model of the server feels of ours, phase by phase, in one run.

A Python model that gives back what it gets is asked one question after another: while ours is not loaded, while it
loads, idles, serves at its limit, reloads at its limit, fails to load. The load on ours comes from another process.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import shutil
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tritonclient.grpc as grpcclient
import typer
from tritonclient.grpc import aio

from flover_backend.config import ModelJson
from flover_backend.errors import EngineFailed
from flover_backend.observer import EngineObserver, find_engines
from flover_backend.server import ServerOptions, TritonServer
from flover_backend.server_files import changed_keys

NEIGHBOUR = Path(__file__).resolve().parent.parent / "tests" / "neighbours" / "models" / "identity"
PAUSE_S = 0.005
"""Between two questions: a neighbour of 100 to 200 requests a second."""
LOADS = 3
PROMPT_TOKENS, OUTPUT_TOKENS = 32, 200
LIMIT_TIMEOUT_S = 60.0


@dataclass
class Neighbour:
    """Asks `identity` in a thread and keeps when each answer came and how long it took, seconds."""

    url: str
    answers: list[tuple[float, float]] = field(default_factory=list)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Raises what a question raised: the neighbour must always be answered."""
        stop, failures = threading.Event(), list[Exception]()
        thread = threading.Thread(target=self._ask, args=(stop, failures))
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
        for failure in failures:
            raise failure

    def _ask(self, stop: threading.Event, failures: list[Exception]) -> None:
        tensor = grpcclient.InferInput("INPUT", [4], "INT32")
        tensor.set_data_from_numpy(np.arange(4, dtype=np.int32))
        try:
            with grpcclient.InferenceServerClient(self.url) as client:
                while not stop.wait(PAUSE_S):
                    begin = time.perf_counter()
                    client.infer("identity", [tensor])
                    self.answers.append((begin, time.perf_counter() - begin))
        except Exception as error:
            failures.append(error)

    def during(self, body: Callable[[], object]) -> list[float]:
        """Milliseconds of the questions that were asked while `body` ran."""
        begin = time.perf_counter()
        body()
        end = time.perf_counter()
        return [1000 * seconds for asked, seconds in self.answers if begin <= asked <= end]


def keep_busy(url: str, model: str, num_streams: int) -> None:
    """Streams without end, in a process of its own; a refused request is sent again."""

    async def requests() -> AsyncIterator[dict[str, Any]]:
        ids = np.random.default_rng().integers(5, 400, PROMPT_TOKENS, dtype=np.int32)
        values = {"input_ids": ids, "stream": np.array([True]), "ignore_eos": np.array([True])}
        values["max_tokens"] = np.array([OUTPUT_TOKENS], np.int32)
        inputs = []
        for (name, array), kind in zip(values.items(), ("INT32", "BOOL", "BOOL", "INT32"), strict=True):
            inputs.append(aio.InferInput(name, list(array.shape), kind))
            inputs[-1].set_data_from_numpy(array)
        yield {"model_name": model, "inputs": inputs}

    async def stream(client: aio.InferenceServerClient) -> None:
        while True:
            async for _, error in client.stream_infer(requests()):
                if error is not None:
                    await asyncio.sleep(0.1)

    async def run() -> None:
        async with aio.InferenceServerClient(url) as client:
            await asyncio.gather(*(stream(client) for _ in range(num_streams)))

    asyncio.run(run())


class Ours:
    """The model under test, through Triton's repository API."""

    def __init__(self, server: TritonServer, config: ModelJson) -> None:
        self.name = server.options.name
        self._server = server
        self._config = changed_keys(config)
        self._path = server.folder / "models" / self.name / "1" / "model.json"
        self._api = grpcclient.InferenceServerClient(server.grpc_url)

    def load(self, **changes: object) -> None:
        """With `changes` to model.json, which give it an engine of its own."""
        self._path.write_text(json.dumps(self._config | changes))
        self._api.load_model(self.name)

    def fail_to_load(self) -> None:
        """A model directory that is not there."""
        try:
            self.load(model="missing")
        except grpcclient.InferenceServerException:
            return
        raise AssertionError("a missing model was loaded")

    def unload(self) -> None:
        """Returns when the engine has ended."""
        self._api.unload_model(self.name)
        while find_engines(self._server.pid):
            time.sleep(0.05)

    def wait_full(self, running: int) -> None:
        """Until every row is taken and somebody waits."""
        deadline = time.monotonic() + LIMIT_TIMEOUT_S
        while time.monotonic() < deadline:
            try:
                with EngineObserver.connect(find_engines(self._server.pid)[0]) as engine:
                    gauges = engine.metrics().gauges
            except EngineFailed:
                continue
            if gauges["flover_requests_running"] == running and gauges["flover_requests_waiting"]:
                return
            time.sleep(0.1)
        raise AssertionError(f"the model did not get to its limit in {LIMIT_TIMEOUT_S:.0f} s")


def main(
    model: Annotated[str, typer.Option(help="As in model.json.")] = "llama-demo",
    max_rows: Annotated[int, typer.Option(help="Rows of ours; as many more requests wait.")] = 16,
    instances: Annotated[int, typer.Option(help="Fronts of ours.")] = 2,
    seconds: Annotated[float, typer.Option(help="Length of each phase that has no length of its own.")] = 15.0,
) -> None:
    """Measure a neighbour's latency and print a table."""
    config = ModelJson(model=model, max_rows=max_rows, max_queued_requests=max_rows)
    with TritonServer(ServerOptions(config=config, instances=instances)) as server:
        shutil.copytree(NEIGHBOUR, server.folder / "models" / "identity", ignore=shutil.ignore_patterns("__pycache__"))
        with grpcclient.InferenceServerClient(server.grpc_url) as api:
            api.load_model("identity")
        neighbour = Neighbour(server.grpc_url)
        with neighbour.asking():
            show(measure(server, Ours(server, config), neighbour, max_rows, seconds))


def measure(
    server: TritonServer, ours: Ours, neighbour: Neighbour, max_rows: int, seconds: float
) -> Iterator[tuple[str, list[float]]]:
    """(phase, milliseconds) in turn; the first is the neighbour alone."""
    rest = partial(time.sleep, seconds)
    ours.unload()
    yield "ours is not loaded", neighbour.during(rest)
    loading: list[float] = []
    for _ in range(LOADS):
        loading += neighbour.during(ours.load)
        ours.unload()
    yield f"ours loads ({LOADS} times)", loading
    failing: list[float] = []
    for _ in range(LOADS):
        failing += neighbour.during(ours.fail_to_load)
    yield f"ours fails to load ({LOADS} times)", failing
    ours.load()
    yield "ours is idle", neighbour.during(rest)
    busy = multiprocessing.get_context("spawn").Process(
        target=keep_busy, args=(server.grpc_url, ours.name, 2 * max_rows), daemon=True
    )
    busy.start()
    try:
        ours.wait_full(max_rows)
        yield "ours serves at its limit", neighbour.during(rest)
        reloading: list[float] = []
        for number in range(LOADS):
            reloading += neighbour.during(partial(ours.load, max_queued_tokens=1_000_000 + number))
        yield f"ours reloads at its limit ({LOADS} times)", reloading
    finally:
        busy.terminate()
        busy.join()


def show(phases: Iterator[tuple[str, list[float]]]) -> None:
    """A Markdown table, a line as soon as its phase is over; ratios are to the first."""
    print("| while | requests | median ms | p99 ms | median ratio | p99 ratio |\n|---|---|---|---|---|---|", flush=True)
    alone: list[float] = []
    for phase, latencies in phases:
        median, p99 = (float(np.percentile(latencies, share)) for share in (50, 99))
        alone = alone or [median, p99]
        ratios = f"{median / alone[0]:.1f} | {p99 / alone[1]:.1f}"
        print(f"| {phase} | {len(latencies):,} | {median:.2f} | {p99:.2f} | {ratios} |", flush=True)


if __name__ == "__main__":
    typer.run(main)
