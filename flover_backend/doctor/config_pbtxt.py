"""config.pbtxt -> plain values, by Triton's own schema, which tritonclient carries."""

from __future__ import annotations

from typing import Any

from flover_backend.errors import ConfigError

try:
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    MISSING = ""
except ImportError as error:  # a stub's Python has no client
    MISSING = f"{error.name} is not installed"


class ConfigUnread(Exception):
    """There is no schema here to read it by."""


def read_config_pbtxt(text: str) -> dict[str, Any]:
    """As `initialize` gets it, but for what is not set. Raises `ConfigError`, or `ConfigUnread` without the schema."""
    if MISSING:
        raise ConfigUnread(MISSING)
    try:
        message = text_format.Parse(text, model_config_pb2.ModelConfig())
    except text_format.ParseError as error:
        raise ConfigError(str(error)) from None
    values: dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    for tensor in (*values.get("input", ()), *values.get("output", ())):
        tensor["dims"] = [int(dim) for dim in tensor.get("dims", ())]  # as text in JSON, since they are 64 bits wide
    for tensor in values.get("input", ()):
        tensor.setdefault("optional", False)  # Triton's own JSON of it says so too
    return values
