"""A client over HTTP beside the gRPC ones: `/generate` and `/generate_stream` in turn, now and then with a bad body."""

from __future__ import annotations

import json
import random
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import numpy as np

from benchmarks.soak.traffic import WORDS, Kind, Planned
from benchmarks.suite.load.calls import Answer, Call
from benchmarks.suite.load.worker import CODE

PAUSE_S = 0.4
TIMEOUT_S = 120.0


class HttpClient(threading.Thread):
    """One request at a time until `stop`; then `planned` and `answers` are complete after `join`."""

    def __init__(self, url: str, model: str, number: int, seed: int) -> None:
        super().__init__(daemon=True)
        self.planned: list[Planned] = []
        self.answers: list[Answer] = []
        self._url, self._model, self._number = url, model, number
        self._source = random.Random(f"http {seed} {number}")
        self._over = threading.Event()

    def stop(self) -> None:
        """After the request that is under way."""
        self._over.set()

    def run(self) -> None:
        """Ask, and remember what came."""
        while not self._over.wait(PAUSE_S):
            request_id, count = f"soak-{self._number}-http-{len(self.planned)}", self._source.randint(1, 40)
            streams, is_bad = len(self.planned) % 2 == 1, self._source.random() < 0.15
            body: dict[str, Any] = {
                "id": request_id,
                "text_input": " ".join(self._source.choices(WORDS, k=5)),
                "max_tokens": -count if is_bad else count,
                "ignore_eos": True,
                "stream": streams,
                "return_finish_reason": True,
                "return_num_output_tokens": True,
            }
            self.planned.append(
                Planned(request_id, Kind.BAD if is_bad else Kind.PLAIN, Call(0.0, (), count, streams), count)
            )
            self.answers.append(self._ask(body, "generate_stream" if streams else "generate"))

    def _ask(self, body: dict[str, Any], endpoint: str) -> Answer:
        url = f"http://{self._url}/v2/models/{self._model}/{endpoint}"
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        sent = time.monotonic()
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            text = error.read().decode()
        except OSError as error:
            return Answer(sent, time.monotonic(), code="UNREACHABLE", message=str(error))
        return answer_of(text, sent, time.monotonic())


def answer_of(text: str, sent: float, ended: float) -> Answer:
    """From a JSON body, or from the events of a stream."""
    events = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.strip()]
    told = next((event["error"] for event in events if "error" in event), "" if events else "an empty body")
    if told:
        found = CODE.search(told)
        return Answer(sent, ended, code=found[1] if found else "UNKNOWN", message=told)
    tokens = np.array([event["num_output_tokens"] for event in events], dtype=np.int32)
    return Answer(sent, ended, np.full(len(tokens), ended), tokens, events[-1]["finish_reason"])
