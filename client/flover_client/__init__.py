"""A client of models that flover-backend serves through Triton: sync (`Client`) and asyncio (`AsyncClient`)."""

from flover_client.aio import AsyncClient, AsyncStream
from flover_client.chat import ChatTemplate
from flover_client.connection import Tls
from flover_client.errors import (
    Cancelled,
    ConnectionFailed,
    FloverError,
    Internal,
    InvalidArgument,
    NotFound,
    RequestFailed,
    RequestTimeout,
    TemplateError,
    Unavailable,
)
from flover_client.sync import Client, Stream
from flover_client.types import Message, Output, Parameters, Prompt, Response, TokenLogprob

__all__ = [
    "AsyncClient",
    "AsyncStream",
    "Cancelled",
    "ChatTemplate",
    "Client",
    "ConnectionFailed",
    "FloverError",
    "Internal",
    "InvalidArgument",
    "Message",
    "NotFound",
    "Output",
    "Parameters",
    "Prompt",
    "RequestFailed",
    "RequestTimeout",
    "Response",
    "Stream",
    "TemplateError",
    "Tls",
    "TokenLogprob",
    "Unavailable",
]
