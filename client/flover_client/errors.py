"""What can go wrong with a request, as exceptions that hold the server's text and code. Knows no gRPC."""

from __future__ import annotations

import re


class FloverError(Exception):
    """Base of all errors of this package."""


class TemplateError(FloverError, ValueError):
    """A chat template is broken, is not there, or refuses the messages. Nothing was sent."""


class RequestFailed(FloverError):
    """The server refused the request or ended it. `str()` is the server's text."""

    def __init__(self, message: str, code: str = "UNKNOWN") -> None:
        super().__init__(message)
        self.code = code
        """The name of Triton's error code."""


class InvalidArgument(RequestFailed):
    """INVALID_ARG: the request is wrong; the text names the field, what was given and what is allowed."""


class Unavailable(RequestFailed):
    """UNAVAILABLE: the queue is full, the server drains, or `deadline_ms` passed first; it may work later."""


class NotFound(RequestFailed):
    """NOT_FOUND: the server has no such model."""


class Cancelled(RequestFailed):
    """CANCELLED: by the server, or by closing the client; a stream that its user closes just ends."""


class Internal(RequestFailed):
    """INTERNAL: the engine failed."""


class RequestTimeout(RequestFailed, TimeoutError):
    """`timeout_s` passed; the request was cancelled on the server too. Code DEADLINE_EXCEEDED."""


class ConnectionFailed(RequestFailed, ConnectionError):
    """No server is there, or it went away. Code UNAVAILABLE."""


CLASSES: dict[str, type[RequestFailed]] = {
    "INVALID_ARG": InvalidArgument,
    "UNAVAILABLE": Unavailable,
    "NOT_FOUND": NotFound,
    "CANCELLED": Cancelled,
    "INTERNAL": Internal,
}

# In this order: the first that matches a text's beginning is its code.
TEXTS = (
    (
        "UNAVAILABLE",
        r"the queue is full|the server is draining|the server shut down|the model is being unloaded"
        r"|deadline_ms passed|Request for unknown model: '.*' (has no available versions|is not ready)",
    ),
    ("NOT_FOUND", r"Request for unknown model"),
    ("CANCELLED", r"cancelled by the client"),
    ("INTERNAL", r"the engine |the response could not be sent|internal error|Failed to process the request"),
    ("INVALID_ARG", r"\w+: |unknown name |both text_input and|neither text_input nor"),
)


def error_of_text(text: str) -> RequestFailed:
    """The exception for an error that came as a response.

    The code is read off the text: on a gRPC stream Triton sends an error's text alone, and the header that asks for
    its code too crashes Triton 24.10 (docs/interface.md). A text that is not known gets the code UNKNOWN.
    """
    code = next((code for code, pattern in TEXTS if re.match(pattern, text)), "UNKNOWN")
    return CLASSES.get(code, RequestFailed)(text, code)
