"""Triton's gRPC messages of a request and its responses, as bytes. Knows protobuf, no channel and no clock.

The bytes are taken apart after a run: a Python client that does it while tokens arrive measures itself.
"""

from __future__ import annotations

import struct

from tritonclient.grpc import service_pb2

from benchmarks.suite.load.calls import Call

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"
IDS = "output_ids"
FINISH = "finish_reason"
BATCHED = ("input_ids", "max_tokens")


def request_bytes(call: Call, model: str) -> bytes:
    """A ModelInferRequest with token ids, which asks for token ids, unless the call has one of its own."""
    if call.message:
        return call.message
    message = service_pb2.ModelInferRequest(model_name=model)
    tensors = (
        ("input_ids", "INT32", struct.pack(f"<{len(call.prompt)}i", *call.prompt), len(call.prompt)),
        ("stream", "BOOL", struct.pack("<?", call.streams), 1),
        ("max_tokens", "INT32", struct.pack("<i", call.new_tokens), 1),
        ("temperature", "FP32", struct.pack("<f", 0.0), 1),
        ("ignore_eos", "BOOL", struct.pack("<?", True), 1),
    )
    for name, datatype, raw, length in tensors:
        if call.batched and name not in BATCHED:
            continue
        message.inputs.add(name=name, datatype=datatype, shape=[1, length] if call.batched else [length])
        message.raw_input_contents.append(raw)
    if call.deadline_ms is not None:
        message.parameters["deadline_ms"].int64_param = call.deadline_ms
    message.outputs.add(name=IDS)
    content: bytes = message.SerializeToString()
    return content


def num_tokens(response: bytes) -> int:
    """Of a ModelStreamInferResponse. Raises `ValueError` with the text of an error that it carries."""
    message = service_pb2.ModelStreamInferResponse.FromString(response)
    if message.error_message:
        raise ValueError(message.error_message)
    for output, raw in zip(message.infer_response.outputs, message.infer_response.raw_output_contents, strict=True):
        if output.name == IDS:
            return len(raw) // 4
    return 0


def finish_reason(response: bytes) -> str:
    """Of a ModelStreamInferResponse: one a sequence, with commas between; empty where none was asked for."""
    message = service_pb2.ModelStreamInferResponse.FromString(response).infer_response
    for output, raw in zip(message.outputs, message.raw_output_contents, strict=True):
        if output.name == FINISH:
            return b",".join(_strings(raw)).decode()
    return ""


def _strings(raw: bytes) -> list[bytes]:
    """Triton's BYTES: each with its length before it."""
    found, place = [], 0
    while place < len(raw):
        (length,) = struct.unpack_from("<I", raw, place)
        found.append(raw[place + 4 : place + 4 + length])
        place += 4 + length
    return found
