"""The errors that a client or an operator can meet. Each text names the field, what was given, what is allowed."""

from __future__ import annotations


class FloverError(Exception):
    """Base of all. `code` is the name of the Triton error code that a client sees.

    `reason`: what metrics and logs call it.
    """

    code = "INTERNAL"
    reason = "internal"


class InvalidRequest(FloverError):
    """The request is wrong; nothing was queued."""

    code = "INVALID_ARG"
    reason = "invalid_arg"


class DoesNotFit(InvalidRequest):
    """Prompt and tokens can never fit this engine's rows, length limit or KV buffer."""


class QueueFull(FloverError):
    """The bounded queue is full; the text holds its depth."""

    code = "UNAVAILABLE"
    reason = "queue_full"


class Draining(FloverError):
    """The server is draining: new requests are refused."""

    code = "UNAVAILABLE"
    reason = "draining"


class EngineRestarting(FloverError):
    """The engine process died and is being started again."""

    code = "UNAVAILABLE"
    reason = "restarting"


class EngineFailed(FloverError):
    """The engine process failed or is gone."""


class ConfigError(FloverError):
    """The configuration or the model directory is wrong; the model does not load."""

    code = "INVALID_ARG"
