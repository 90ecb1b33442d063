"""Bytes as a client's request, read by the front's parser: it takes it or raises `InvalidRequest`, and nothing else.

Whatever it takes, the engine's own check must find in order (engine/submitted.py): the two hold the same limits.
"""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
from cursor import Cursor
from small_info import INFO

from flover_backend.bundled import path_of
from flover_backend.engine.submitted import check_submitted
from flover_backend.errors import InvalidRequest
from flover_backend.front.parse import Arrays, ParsedRequest, RequestParser, check_ids, sampling_params
from flover_backend.front.stops import StopFinder
from flover_backend.front.tensors import INPUTS
from flover_backend.front.tokenizer import Tokenizer
from flover_backend.request import Request

PARSERS = [RequestParser(INFO, has_tokenizer=has, header_prefix="x-") for has in (True, False)]
PROMPT = {"input_ids": np.array([5, 6, 7], np.int32)}
DTYPES = (np.int32, np.uint64, np.float32, np.bool_, np.int64, np.object_)
SHAPES = ((1,), (0,), (2,), (1, 1), (3,), (), (2, 0))


def read_json(data: bytes) -> None:
    """`data` is the `sampling_parameters` tensor of a request that is good but for that."""
    _read(PROMPT | {"sampling_parameters": np.array([data], np.object_)}, "")


def read_request_parameters(data: bytes) -> None:
    """`data` is what Triton gives as the request's parameters."""
    _read(PROMPT, data.decode("utf-8", "surrogatepass") if _is_text(data) else "\udcff" + repr(data))


def read_tensors(data: bytes) -> None:
    """`data` chooses tensors, of any type and shape, and their values."""
    cursor = Cursor(data)
    parser_index, parameters = cursor.below(2), "{}"
    arrays: dict[str, np.ndarray] = {}
    for _ in range(cursor.below(8)):
        spec = INPUTS[cursor.below(len(INPUTS))]
        arrays[spec.name] = _array(cursor, spec.data_type)
    if cursor.byte() % 4 == 0:
        parameters = json.dumps({cursor.string().decode("latin-1"): _json_value(cursor, 3) for _ in range(2)})
    _read(arrays, parameters, parser_index, cursor.integer() % 2**40)


def tokenize(data: bytes) -> None:
    """`data` is a prompt: any UTF-8 is tokenized, and its tokens' bytes are the prompt's."""
    if len(data) > 600:
        return
    parser = PARSERS[0]
    try:
        parsed = parser.parse({"text_input": np.array([data], np.object_)}, "")
        assert parsed.text is not None
        ids = check_ids("text_input", tokenizer().encode(parsed.text), INFO)
    except InvalidRequest:
        return
    assert all(0 <= token < 1536 for token in ids)


_tokenizers: list[Tokenizer] = []


def tokenizer() -> Tokenizer:
    if not _tokenizers:
        _tokenizers.append(Tokenizer(path_of("llama-demo") / "tokenizer.json"))
    return _tokenizers[0]


def _read(arrays: Arrays, parameters: str, parser_index: int = 0, timeout_us: int = 0) -> None:
    try:
        parsed = PARSERS[parser_index].parse(arrays, parameters, timeout_us=timeout_us)
    except InvalidRequest as error:
        _check_message(error)
        return
    _check_taken(parsed)


def _check_taken(parsed: ParsedRequest) -> None:
    ids = parsed.prompt_ids if parsed.prompt_ids is not None else [5]
    try:
        params = sampling_params(parsed, len(ids), INFO)
    except InvalidRequest:
        return
    now = time.monotonic()
    deadline = None if parsed.deadline_s is None else now + parsed.deadline_s
    check_submitted(Request(key=1, prompt_ids=ids, params=params, arrival_time=now, deadline=deadline), INFO, now)
    if parsed.stop:
        StopFinder(parsed.stop)


def _check_message(error: InvalidRequest) -> None:
    """It goes to the client: text that UTF-8 can say, and not the whole of what the client sent."""
    text = str(error)
    text.encode()
    assert len(text) < 2000, f"{len(text)} characters"


def _array(cursor: Cursor, data_type: str) -> np.ndarray:
    declared = {"TYPE_STRING": 5, "TYPE_INT32": 0, "TYPE_BOOL": 3, "TYPE_FP32": 2, "TYPE_UINT64": 1}[data_type]
    dtype = DTYPES[declared if cursor.byte() < 224 else cursor.below(len(DTYPES))]
    shape = (1,) if cursor.byte() < 192 else cursor.choice(SHAPES)
    size = int(np.prod(shape, dtype=np.int64))
    if dtype is np.object_:
        values = np.empty(size, np.object_)
        for i in range(size):
            values[i] = cursor.string()
        return values.reshape(shape)
    raw = cursor.take(size * np.dtype(dtype).itemsize).ljust(size * np.dtype(dtype).itemsize, b"\0")
    if dtype is np.bool_:
        raw = bytes(value & 1 for value in raw)
    return np.frombuffer(raw, dtype).reshape(shape)


def _json_value(cursor: Cursor, depth: int) -> Any:
    kind = cursor.below(8 if depth else 6)
    if kind < 6:
        text = cursor.string().decode("latin-1") if kind == 0 else ""
        return (text, cursor.integer(), cursor.real(), True, None, str(cursor.real()))[kind]
    if kind == 6:
        return [_json_value(cursor, depth - 1) for _ in range(cursor.below(4))]
    return {str(cursor.integer()): _json_value(cursor, depth - 1) for _ in range(cursor.below(4))}


def _is_text(data: bytes) -> bool:
    try:
        data.decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return False
    return True
