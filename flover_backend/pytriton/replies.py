"""The responses of one request on their way to PyTriton's async generator, and errors as its clients are to see them.

Knows what PyTriton makes of an exception; nothing of requests, streams or clocks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import numpy as np
import numpy.typing as npt

from flover_backend.errors import FloverError
from flover_backend.front.responses import Outputs, error_text

Arrays = dict[str, npt.NDArray[np.generic]]


class Replies:
    """One request's responses. `send` and `fail` are called in the event loop in which `read` is iterated.

    PyTriton does not tell when a client has gone; only its own end ends a generator early.
    """

    def __init__(self) -> None:
        self._responses: asyncio.Queue[tuple[Outputs | FloverError, bool]] = asyncio.Queue()
        self._closed = False
        self._left = False

    @property
    def closed(self) -> bool:
        """The last response was sent."""
        return self._closed

    def is_cancelled(self) -> bool:
        """Whether the generator was ended before its last response."""
        return self._left

    def send(self, outputs: Outputs, *, final: bool) -> None:
        """One content response."""
        self._put(outputs, final)

    def fail(self, error: FloverError) -> None:
        """An error, the last response."""
        self._put(error, True)

    async def read(self) -> AsyncGenerator[Arrays, None]:
        """The content responses as they come; raises what the client is to see when the request fails."""
        final = False
        try:
            while not final:
                response, final = await self._responses.get()
                if isinstance(response, FloverError):
                    raise RequestError(error_text(response))
                yield dict(response)
        finally:
            self._left = not final

    def _put(self, response: Outputs | FloverError, final: bool) -> None:
        if self._closed:
            raise RuntimeError("a response after the last one")
        self._closed = final
        if not self._left:  # nobody waits, and the loop may have ended
            self._responses.put_nowait((response, final))


class RequestError(Exception):
    """What a generator raises for PyTriton to send: `RequestError: ` and the text that Triton's clients get."""

    # NOTE: PyTriton sends the error as Python prints it, with the server's paths in its traceback. So it gets none, and
    # a name without a module.
    __traceback__ = None
    __module__ = "builtins"
