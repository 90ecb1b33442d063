"""Somebody who asks the model `identity` all the time, and the proof that it answered while something went on."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import numpy as np
import tritonclient.grpc as grpcclient
from live_server import LiveServer

ANSWER_TIMEOUT_S = 30
"""Against a hang; not a bound on latency."""
PAUSE_S = 0.01


class Asker:
    """Asks one request after another in a thread."""

    def __init__(self, server: LiveServer) -> None:
        self._client = grpcclient.InferenceServerClient(server.grpc_url)
        self._stop = threading.Event()
        self._news = threading.Condition()
        self._answered = 0
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        self._wait_for(1)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._thread.join()
        self._client.close()
        self._check()

    @contextmanager
    def answers_during(self) -> Iterator[None]:
        """Fails unless a request was both asked and answered between the beginning and the end of the body."""
        before = self._answered
        yield
        self._check()
        # NOTE: the first answer after `before` may belong to a question from before the body.
        assert self._answered >= before + 2, f"{self._answered - before} answers while it went on"

    def wait_for_more(self, count: int) -> None:
        """Return when so many more have been answered."""
        self._wait_for(self._answered + count)

    def _wait_for(self, total: int) -> None:
        with self._news:
            assert self._news.wait_for(lambda: self._failure or self._answered >= total, 2 * ANSWER_TIMEOUT_S)
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            raise AssertionError("the neighbour got no answer") from self._failure

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._ask(self._answered)
            except Exception as error:
                self._failure = error
                self._stop.set()
            with self._news:
                self._answered += self._failure is None
                self._news.notify_all()
            time.sleep(PAUSE_S)

    def _ask(self, number: int) -> None:
        given = np.array([number, -number, 7], np.int32)
        tensor = grpcclient.InferInput("INPUT", [3], "INT32")
        tensor.set_data_from_numpy(given)
        result = self._client.infer("identity", [tensor], client_timeout=ANSWER_TIMEOUT_S)
        assert result.as_numpy("OUTPUT").tolist() == given.tolist()
