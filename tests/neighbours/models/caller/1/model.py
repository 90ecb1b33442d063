"""Business logic that calls the language model (BLS): passes a request on, and each response back as it comes."""

from __future__ import annotations

from typing import Any

import triton_python_backend_utils as pb_utils

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> None:
        for request in requests:
            pass_on(request, request.get_response_sender())


def pass_on(request: Any, sender: Any) -> None:
    """Call `flover` with the request's own inputs; its error comes back with its code and ends the request."""
    call = pb_utils.InferenceRequest(
        model_name="flover",
        requested_output_names=["text_output"],
        inputs=request.inputs(),
        timeout=request.timeout(),
    )
    for response in call.exec(decoupled=True):
        if response.has_error():
            error = pb_utils.TritonError(f"flover: {response.error().message()}", response.error().code())
            sender.send(pb_utils.InferenceResponse(error=error), FINAL)
            return
        if response.output_tensors():
            sender.send(pb_utils.InferenceResponse(response.output_tensors()))
    sender.send(flags=FINAL)
