"""A request as Triton handed it over. Knows neither Triton nor what the values mean."""

from __future__ import annotations

from dataclasses import dataclass

from flover_backend.front.parse import Arrays


@dataclass(frozen=True, slots=True)
class Incoming:
    """A Triton request, copied out of it."""

    arrays: Arrays
    request_parameters: str
    """A JSON object."""
    wants_text: bool
    """Whether the client asked for `text_output`."""
    request_id: str = ""
    """The client's own, which need not be unique; for the log."""
    timeout_us: int = 0
    """Triton's own request timeout; 0 is none."""
