"""Malformed gRPC requests, made by chance from a good one, and what the server says to each."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable

import grpc
from google.protobuf.message import DecodeError
from tritonclient.grpc import service_pb2 as pb

from flover_backend.front.tensors import INPUTS

STREAM, UNARY = ("/inference.GRPCInferenceService/" + name for name in ("ModelStreamInfer", "ModelInfer"))
ANSWER_TIMEOUT_S = 120
OPTIONS = (("grpc.max_send_message_length", 64 << 20), ("grpc.use_local_subchannel_pool", 1))
DATATYPES = ("BOOL", "UINT8", "INT32", "INT64", "UINT64", "FP16", "FP32", "FP64", "BF16", "BYTES", "", "INT33", "bytes")
NAMES = (*(spec.name for spec in INPUTS), "unknown", "", "text_output", "x" * 300, "\U0010ffff")
PARAMETERS = (
    *("max_tokens", "temperature", "stop", "seed", "n", "logprobs", "priority", "timeout", "id", "sequence_id"),
    *("sequence_start", "triton_x", "binary_data", "unknown", "", "shared_memory_region", "shared_memory_byte_size"),
    *("shared_memory_offset", "triton_enable_empty_final_response", "binary_data_size"),
)
TEXTS = (
    b"",
    b"Hi",
    b"\xff\xfe",
    b"\0" * 9,
    "世界".encode(),
    b"{",
    b'{"n": 0}',
    b"[" * 2000,
    b'{"stop": [""]}',
    b"x" * 40_000,
)


class GrpcPeer:
    """One channel; each request has a stream of its own."""

    def __init__(self, url: str) -> None:
        self._channel = grpc.insecure_channel(url, OPTIONS)
        parse = pb.ModelStreamInferResponse.FromString
        self._stream = self._channel.stream_stream(STREAM, response_deserializer=parse)
        self._unary = self._channel.unary_unary(UNARY, response_deserializer=pb.ModelInferResponse.FromString)

    def send(self, chance: random.Random) -> str:
        """`tokens`, `refused`, `closed` (it was no protocol buffer), or `unanswered: why`."""
        data = malformed(chance)
        try:
            if chance.random() < 0.1:
                self._unary(data, timeout=ANSWER_TIMEOUT_S)
                return "tokens"
            answers = list(self._stream(iter([data]), timeout=ANSWER_TIMEOUT_S))
        except grpc.RpcError as error:
            code = error.code()
            lost = code in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
            unanswered = lost and "[request id" not in error.details()
            return f"unanswered: {code} {error.details()}" if unanswered else "refused"
        if not answers:  # Triton ends the stream of what is no message
            return "unanswered: the stream ended without a word" if is_message(data) else "closed"
        return "refused" if answers[-1].error_message else "tokens"

    def close(self) -> None:
        self._channel.close()


def is_message(data: bytes) -> bool:
    try:
        pb.ModelInferRequest.FromString(data)
    except DecodeError:
        return False
    return True


def good() -> pb.ModelInferRequest:
    request = pb.ModelInferRequest(model_name="flover", raw_input_contents=[struct.pack("<3i", 5, 6, 7), b"\3\0\0\0"])
    request.inputs.add(name="input_ids", datatype="INT32", shape=[3])
    request.inputs.add(name="max_tokens", datatype="INT32", shape=[1])
    return request


def malformed(chance: random.Random) -> bytes:
    """A serialized request; about one in ten is damaged after that, in its bytes."""
    request = good()
    for _ in range(chance.choice((1, 1, 1, 2, 3, 5))):
        chance.choice(MUTATIONS)(request, chance)
    data = bytearray(request.SerializeToString())
    if chance.random() < 0.1:
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(len(data))] = chance.randrange(256)
    if chance.random() < 0.03:
        data = data[: chance.randrange(len(data))]
    return bytes(data)


def _integer(chance: random.Random) -> int:
    return chance.choice(
        (0, 1, -1, 2, 3, 7, 2**31 - 1, -(2**31), 2**40, 2**62, 2**63 - 1, -(2**63), chance.randint(-9, 99))
    )


def _any_input(request: pb.ModelInferRequest, chance: random.Random) -> pb.ModelInferRequest.InferInputTensor:
    return chance.choice(request.inputs) if request.inputs else request.inputs.add()


def _shape(request: pb.ModelInferRequest, chance: random.Random) -> None:
    tensor = _any_input(request, chance)
    del tensor.shape[:]
    tensor.shape.extend(_integer(chance) for _ in range(chance.choice((0, 1, 1, 1, 2, 3, 9))))


def _datatype(request: pb.ModelInferRequest, chance: random.Random) -> None:
    _any_input(request, chance).datatype = chance.choice(DATATYPES)


def _name(request: pb.ModelInferRequest, chance: random.Random) -> None:
    _any_input(request, chance).name = chance.choice(NAMES)


def _raw(request: pb.ModelInferRequest, chance: random.Random) -> None:
    content = chance.choice((b"", chance.randbytes(chance.randint(1, 40)), _string(chance), b"\0" * 4096))
    if request.raw_input_contents and chance.random() < 0.7:
        request.raw_input_contents[chance.randrange(len(request.raw_input_contents))] = content
    else:
        request.raw_input_contents.append(content)


def _drop_raw(request: pb.ModelInferRequest, chance: random.Random) -> None:
    del request.raw_input_contents[chance.randrange(2) :]


def _contents(request: pb.ModelInferRequest, chance: random.Random) -> None:
    """Typed contents, beside raw ones or instead of them."""
    contents = _any_input(request, chance).contents
    count = chance.choice((0, 1, 1, 2, 3, 50))
    kind = chance.randrange(6)
    if kind == 0:
        contents.int_contents.extend(chance.randint(-5, 2000) for _ in range(count))
    elif kind == 1:
        contents.int64_contents.extend(_integer(chance) for _ in range(count))
    elif kind == 2:
        contents.bytes_contents.extend(chance.choice(TEXTS) for _ in range(count))
    elif kind == 3:
        contents.fp32_contents.extend(chance.choice((0.5, float("nan"), float("inf"), -1.0)) for _ in range(count))
    elif kind == 4:
        contents.bool_contents.extend(True for _ in range(count))
    else:
        contents.uint64_contents.extend(abs(_integer(chance)) for _ in range(count))
    if chance.random() < 0.6:
        del request.raw_input_contents[:]


def _add_tensor(request: pb.ModelInferRequest, chance: random.Random) -> None:
    """A declared tensor with a value that fits its type, or not."""
    spec = chance.choice(INPUTS)
    datatype = {"TYPE_STRING": "BYTES"}.get(spec.data_type, spec.data_type.removeprefix("TYPE_"))
    content = {
        "BYTES": _string(chance),
        "BOOL": chance.choice((b"\0", b"\1", b"\xff", b"")),
        "INT32": struct.pack("<i", chance.choice((0, -1, 1, 5, 2**31 - 1, -(2**31), chance.randint(0, 300)))),
        "FP32": struct.pack("<f", chance.choice((0.0, -1.0, 0.5, float("nan"), float("inf"), 1e38, 200.0))),
        "UINT64": struct.pack("<Q", chance.choice((0, 1, 2**64 - 1))),
    }[datatype]
    request.inputs.add(name=spec.name, datatype=datatype, shape=[chance.choice((1, 1, 1, 1, 2, 0))])
    request.raw_input_contents.append(content)


def _string(chance: random.Random) -> bytes:
    text = chance.choice(TEXTS)
    length = len(text) if chance.random() < 0.7 else chance.choice((0, len(text) + 1, 2**31, 2**32 - 1))
    return struct.pack("<I", length) + text


def _twice(request: pb.ModelInferRequest, chance: random.Random) -> None:
    request.inputs.add().CopyFrom(_any_input(request, chance))
    request.raw_input_contents.append(b"\1\0\0\0")


def _no_input(request: pb.ModelInferRequest, chance: random.Random) -> None:
    if request.inputs:
        del request.inputs[chance.randrange(len(request.inputs))]


def _parameter(request: pb.ModelInferRequest, chance: random.Random) -> None:
    place = chance.choice((request.parameters, request.parameters, _any_input(request, chance).parameters))
    parameter = place[chance.choice(PARAMETERS)]
    kind = chance.randrange(6)
    if kind == 0:
        parameter.int64_param = _integer(chance)
    elif kind == 1:
        parameter.string_param = chance.choice(("", "1", "nan", "x" * 5000, "\ufeff\u202e", '{"a":', "1" * 60_000))
    elif kind == 2:
        parameter.bool_param = chance.random() < 0.5
    elif kind == 3:
        parameter.double_param = chance.choice((0.5, float("nan"), float("inf"), -1e308))
    elif kind == 4:
        parameter.uint64_param = abs(_integer(chance))


def _output(request: pb.ModelInferRequest, chance: random.Random) -> None:
    output = request.outputs.add(name=chance.choice(("text_output", "output_ids", "unknown", "", "logprobs")))
    if chance.random() < 0.3:
        output.parameters[chance.choice(("binary_data", "shared_memory_region", "unknown"))].string_param = "x"


def _model(request: pb.ModelInferRequest, chance: random.Random) -> None:
    if chance.random() < 0.5:
        request.model_name = chance.choice(("", "flovers", "../flover", "flover\0", "x" * 3000))
    else:
        request.model_version = chance.choice(("2", "-1", "x", "1" * 30, " 1"))


def _identity(request: pb.ModelInferRequest, chance: random.Random) -> None:
    request.id = chance.choice(("", "a\nb", "x" * 20_000, "\u2028", "%s%n", "\0"))


MUTATIONS: tuple[Callable[[pb.ModelInferRequest, random.Random], None], ...] = (
    *(_shape, _datatype, _name, _raw, _drop_raw, _contents, _add_tensor, _add_tensor, _add_tensor, _twice),
    *(_no_input, _parameter, _parameter, _output, _model, _identity),
)
