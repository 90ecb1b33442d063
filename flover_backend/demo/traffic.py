"""Sends the scheduled requests, each on a gRPC stream of its own, and notes what comes back when."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from pathlib import Path

from flover_backend.client import FloverClient
from flover_backend.demo.schedule import Arrival
from flover_backend.generate import chat_prompt


@dataclass
class Record:
    """What happened to one request. Times are `time.monotonic()` seconds, the clock of the engine's iterations."""

    number: int
    """From 1, in order of arrival."""
    arrival: Arrival
    sent: float | None = None
    token_times: list[float] = field(default_factory=list)
    """One entry a token; tokens that came in one response share theirs."""
    text: str = ""
    finish_reason: str = ""
    ended: float | None = None


class Traffic:
    """The requests of one run of the demo."""

    def __init__(self, schedule: list[Arrival], model_dir: Path) -> None:
        self.records = [Record(number, arrival) for number, arrival in enumerate(schedule, start=1)]
        self._prompts = [chat_prompt(arrival.question, model_dir) for arrival in schedule]

    @property
    def num_ended(self) -> int:
        """Requests that are over."""
        return sum(record.ended is not None for record in self.records)

    @property
    def num_tokens(self) -> int:
        """Tokens received so far."""
        return sum(len(record.token_times) for record in self.records)

    async def run(self, client: FloverClient) -> None:
        """Send everything at its time and return when all is answered. Raises `RequestFailed`."""
        start = time.monotonic()
        pairs = zip(self.records, self._prompts, strict=True)
        tasks = [asyncio.ensure_future(self._send(client, record, prompt, start)) for record, prompt in pairs]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    async def _send(self, client: FloverClient, record: Record, prompt: str, start: float) -> None:
        arrival = record.arrival
        await asyncio.sleep(start + arrival.time_s - time.monotonic())
        record.sent = time.monotonic()
        answer = client.generate(prompt, max_tokens=arrival.max_tokens, temperature=0, ignore_eos=arrival.exact)
        async for delta in answer:
            record.token_times += [time.monotonic()] * delta.num_tokens
            record.text += delta.text
            record.finish_reason = delta.finish_reason
        record.ended = time.monotonic()
