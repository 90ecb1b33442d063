"""The requests that the engine has accepted and not yet ended, as the process around the core sees them.

Knows whose they are and how many tokens went out; rows, blocks and sampling are the core's business.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from flover_backend.request import Request


@dataclass(slots=True)
class LiveSequence:
    """One of a request's n sequences."""

    num_tokens: int = 0
    """Tokens handed to the front."""
    last_time: float = 0.0
    """When the latest of them was, `time.monotonic()`."""
    finish_at: int | None = None
    """The front's stop string ends it after so many tokens."""
    ended: bool = False

    @property
    def num_delivered(self) -> int:
        """Tokens that the client gets: none after a stop string."""
        return self.num_tokens if self.finish_at is None else min(self.num_tokens, self.finish_at)


@dataclass(slots=True)
class LiveRequest:
    """An accepted request."""

    key: int
    connection: int
    arrival_time: float
    num_prompt_tokens: int
    counts_at_end: bool
    sequences: list[LiveSequence] = field(default_factory=list)
    queue_seconds: float | None = None
    """From arrival to the first row; None while it waits for one."""
    has_first_token: bool = False
    """Any sequence has one."""

    @property
    def is_over(self) -> bool:
        """True when every sequence has ended."""
        return all(sequence.ended for sequence in self.sequences)


class LiveRequests:
    """The accepted requests by key, in order of acceptance."""

    def __init__(self) -> None:
        self._requests: dict[int, LiveRequest] = {}

    def __len__(self) -> int:
        return len(self._requests)

    def add(self, connection: int, request: Request) -> LiveRequest:
        """The core has accepted `request`."""
        assert request.key not in self._requests, f"request key {request.key} is live already"
        live = LiveRequest(
            request.key,
            connection,
            request.arrival_time,
            len(request.prompt_ids),
            request.has_stop_strings,
            [LiveSequence() for _ in range(request.params.n)],
        )
        self._requests[request.key] = live
        return live

    def get(self, key: int) -> LiveRequest | None:
        """None when it has ended."""
        return self._requests.get(key)

    def is_of(self, connection: int, key: int) -> bool:
        """True when the request lives and this connection submitted it."""
        live = self._requests.get(key)
        return live is not None and live.connection == connection

    def remove(self, key: int) -> None:
        """It has ended; its front has been told or is gone."""
        del self._requests[key]

    def all_keys(self) -> list[int]:
        """In order of acceptance."""
        return list(self._requests)

    def of_connection(self, connection: int) -> list[int]:
        """Keys of one front's requests."""
        return [key for key, live in self._requests.items() if live.connection == connection]
