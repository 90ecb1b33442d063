"""PyTriton's side of the binding: the model as it declares it, a request as it hands it over, one generator a request.

The only module that imports PyTriton. What a request means and how it is answered is the front's (front/service.py).
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import numpy as np
from pytriton.model_config import ModelConfig, Tensor

from flover_backend.front import tensors
from flover_backend.front.incoming import Incoming
from flover_backend.front.service import FrontService
from flover_backend.pytriton.pacing import PacedSenders
from flover_backend.pytriton.replies import Arrays, Replies, RequestError

DTYPES: dict[str, type] = {
    "TYPE_STRING": bytes,
    "TYPE_BOOL": np.bool_,
    "TYPE_INT32": np.int32,
    "TYPE_UINT32": np.uint32,
    "TYPE_UINT64": np.uint64,
    "TYPE_FP32": np.float32,
}


class Binding:
    """Answers PyTriton's requests with a front."""

    def __init__(self, service: FrontService, senders: PacedSenders) -> None:
        self._service = service
        self._senders = senders

    def bind(self, triton: Any, name: str) -> None:
        """Declare the model to a `pytriton.triton.Triton`."""
        logging.getLogger("pytriton.proxy.inference").addFilter(_is_no_refusal)
        triton.bind(
            model_name=name,
            infer_func=self.infer,
            inputs=[_tensor(spec) for spec in tensors.INPUTS],
            outputs=[_tensor(spec) for spec in tensors.OUTPUTS],
            config=ModelConfig(batching=False, decoupled=True),
        )

    async def infer(self, requests: list[Any]) -> AsyncGenerator[list[Arrays], None]:
        """PyTriton's inference callable: the responses of one request, which is a list of one."""
        (request,) = requests
        replies = Replies()
        self._senders.attach(asyncio.get_running_loop())
        self._service.accept(replies, partial(_copy_out, request))
        async with aclosing(replies.read()) as responses:
            async for arrays in responses:
                yield [arrays]


def _is_no_refusal(record: logging.LogRecord) -> bool:
    # NOTE: PyTriton logs each error that a client gets, with a traceback; its text may quote the client's input.
    return not isinstance(sys.exc_info()[1], RequestError)


def _tensor(spec: tensors.TensorSpec) -> Tensor:
    return Tensor(name=spec.name, dtype=DTYPES[spec.data_type], shape=spec.dims, optional=spec.optional)


def _copy_out(request: Any) -> Incoming:
    """Everything needed of a request: its tensors lie in memory that PyTriton takes back."""
    wanted = request.requested_output_names
    return Incoming(
        arrays={name: array.copy() for name, array in request.data.items()},
        request_parameters=json.dumps(request.parameters or {}),
        wants_text=wanted is None or "text_output" in wanted,
    )
