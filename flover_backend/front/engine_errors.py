"""The errors that the engine names, as this front raises them: their codes are Triton's, given as text."""

from __future__ import annotations

from flover_backend.errors import FloverError, InvalidRequest
from flover_backend.front.stream import Cancelled


class _Coded(FloverError):
    """An error whose code was given by the engine."""

    def __init__(self, code: str, message: str, reason: str) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason


def error_of(code: str, message: str, reason: str) -> FloverError:
    """Of `code`, a Triton error code's name; `reason` is what metrics and logs call it."""
    if code == Cancelled.code:
        return Cancelled(message)
    if code == InvalidRequest.code:
        return InvalidRequest(message)
    return _Coded(code, message, reason)
