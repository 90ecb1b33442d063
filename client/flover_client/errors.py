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

CODE_IN_TEXT = re.compile(r"^([A-Z_]+): | \[([A-Z_]+)\]$")
"""flover-backend ends the text of each of its errors with the code; bound in a PyTriton program, it begins with it."""

# What Triton itself refuses has no code in its text. In this order: the first that is found is its code.
TRITONS_TEXTS = (
    ("UNAVAILABLE", r"^Request for unknown model: '.*' (has no available versions|.*is not (at )?ready)"),
    ("NOT_FOUND", r"^Request for unknown model"),
    ("INTERNAL", r"^Failed to process the request|^Stub process"),
    ("INVALID_ARG", r"unexpected (shape for|inference) input|inference input '|version should be an integral value"),
)


def error_of_text(text: str) -> RequestFailed:
    """The exception for an error that came as a response: on a gRPC stream Triton sends an error's text alone.

    The code is the one that the backend writes into the text; of an error of Triton's own it is read off the
    text. A text that is not known gets the code UNKNOWN.
    """
    written = CODE_IN_TEXT.search(text)
    if written:
        code = written[1] or written[2]
    else:
        code = next((code for code, pattern in TRITONS_TEXTS if re.search(pattern, text)), "UNKNOWN")
    return CLASSES.get(code, RequestFailed)(text, code)
