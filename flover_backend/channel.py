"""The messages between fronts (and local tools) and the engine process, and nothing else that both know.

A frame is a 4-byte little-endian length and one msgpack message (msgspec tagged structs; never pickle).
One `Tokens` message an iteration and front carries all its rows' tokens as parallel arrays.
Any peer that sends an undecodable or oversized frame is disconnected; nobody else is touched.
"""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec

from flover_backend.request import Request

PROTOCOL_VERSION = 3
MAX_FRAME_BYTES = 64 << 20
_LENGTH = struct.Struct("<I")

Count = Annotated[int, msgspec.Meta(ge=0)]
Name = Annotated[str, msgspec.Meta(max_length=1024)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
"""Not NaN: that is not >= 0."""


class _Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """Base of all messages."""


# front or tool -> engine


class Hello(_Message, tag="hello", frozen=True):
    """First message of a connection."""

    role: Name
    """`front` (keeps the engine alive, may submit) or `observer` (may ask for iterations, metrics, drain)."""
    name: Name
    pid: int
    protocol_version: int = PROTOCOL_VERSION


class Submit(_Message, tag="submit", frozen=True):
    """A validated, tokenized request. Answered by Tokens, Ended or Refused for its key."""

    request: Request
    again: bool = False
    """An engine that died had accepted it: the queue's limits do not refuse it."""


class Cancel(_Message, tag="cancel", frozen=True):
    """The client is gone; answered by Ended (reason cancelled) unless the request has just finished."""

    key: int


class Finish(_Message, tag="finish", frozen=True):
    """A stop string ended sequence `index` after its `num_tokens`-th token."""

    key: int
    index: int
    num_tokens: Count


class FrontStats(_Message, tag="front_stats", frozen=True):
    """What only a front can count, as increments since its last message."""

    coalesced_responses: Count = 0
    rejected: dict[str, Count] = {}
    """By reason, e.g. invalid_arg, queue_full, draining: requests refused before the engine saw them."""


class MetricsWritten(_Message, tag="metrics_written", frozen=True):
    """The leader has written this snapshot to Triton: after a takeover the next leader adds only what is missing."""

    sequence: int


class Drain(_Message, tag="drain", frozen=True):
    """Refuse new requests, let running ones finish for `timeout_s`, end the rest; then answer `Drained`."""

    timeout_s: Seconds


class GetIterations(_Message, tag="get_iterations", frozen=True):
    """Ask for the ring's records with step >= since_step (at most 65,536)."""

    since_step: int


class GetMetrics(_Message, tag="get_metrics", frozen=True):
    """Ask for one `Metrics` snapshot."""


# engine -> front or tool


class Loading(_Message, tag="loading", frozen=True):
    """Progress of the load; fraction 0 .. 1."""

    stage: str
    fraction: float


class EngineInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What a front must know of the loaded model to validate and tokenize. Resolved values, nothing None."""

    front_number: int
    """Given to this connection; request keys are (front_number << 40) + the front's own number of the request."""
    model_dir: str
    vocab_size: int
    eos_token_ids: list[int]
    max_model_len: int
    max_rows: int
    block_size: int
    num_blocks: int
    """Blocks that requests can use (the null block not counted)."""
    max_tokens_limit: int
    max_tokens_default: int
    max_prompt_bytes: int
    max_queued_requests: int
    max_queued_tokens: int
    dtype: str
    device: str
    reorder: str
    pid: int


class Ready(_Message, tag="ready", frozen=True):
    """The engine is loaded and warm."""

    info: EngineInfo


class Failed(_Message, tag="failed", frozen=True):
    """The engine cannot start, or has failed: every live request ends with INTERNAL and this text."""

    message: str
    code: str = "INTERNAL"
    """INVALID_ARG when the configuration or the model directory is at fault: an operator can mend it."""
    suspects: tuple[int, ...] = ()
    """Keys, any front's, of the requests that had a row and no token yet."""


class Heartbeat(_Message, tag="heartbeat", frozen=True):
    """Sent to all fronts every 0.5 s from the engine's IO thread once it is loaded: how its main thread does."""

    busy_s: float
    """How long the main thread has been at its present turn; 0 when it waits for requests."""
    allowed_s: float
    """A turn that is longer is a hang."""
    suspects: tuple[int, ...] = ()
    """As in `Failed`, when it hangs."""


class Tokens(_Message, tag="tokens", frozen=True):
    """One iteration's news for one front: parallel arrays, one entry a sequence."""

    keys: list[int]
    indexes: list[int]
    token_ids: list[list[int]]
    finish: list[int]
    """`FinishReason` values."""
    logprobs: dict[int, list[tuple[float, int, list[tuple[int, float]]]]] = {}
    """Entry number -> per new token (logprob, rank, top [(id, logprob)])."""
    queue_seconds: dict[int, float] = {}
    """Key -> from arrival to the first row, of each request whose first tokens these are."""


class Ended(_Message, tag="ended", frozen=True):
    """A request is over as a whole without (further) tokens: `code` is a Triton error code's name."""

    key: int
    code: str
    message: str
    reason: str
    """cancelled, deadline, shutdown, internal"""


class Refused(_Message, tag="refused", frozen=True):
    """A Submit was not accepted: `code` INVALID_ARG or UNAVAILABLE."""

    key: int
    code: str
    message: str


class Status(_Message, tag="status", frozen=True):
    """Sent to all fronts when the queue becomes full or has room again, and when a drain begins."""

    num_waiting_requests: int
    num_waiting_tokens: int
    accepting: bool
    draining: bool


class Leader(_Message, tag="leader", frozen=True):
    """This front writes the metrics from now on. `acknowledged` is the last snapshot known to be written, or None."""

    acknowledged: Metrics | None


class Metrics(_Message, tag="metrics", frozen=True):
    """A snapshot of totals and gauges. Sent to the leader every 0.5 s while running, and when the engine falls idle."""

    sequence: int
    counters: dict[str, float]
    """Family name, or `name{label="value",...}` with sorted labels -> total since the engine started."""
    gauges: dict[str, float]


class Drained(_Message, tag="drained", frozen=True):
    """The drain is over: nothing runs, everything was answered."""

    finished: int
    ended: int


class Iteration(msgspec.Struct, frozen=True, array_like=True):
    """One record of the ring that remembers the last 65,536 iterations."""

    step: int
    time: float
    """`time.monotonic()` at its start, seconds."""
    seconds: float
    num_rows: int
    num_live: int
    """Rows that computed for a live sequence."""
    decode_tokens: int
    prefill_tokens: int
    joins: int
    leaves: int
    row_moves: int
    block_moves: int
    num_waiting: int
    free_blocks: int


class Iterations(_Message, tag="iterations", frozen=True):
    """Answer to GetIterations."""

    records: list[Iteration]


ToEngine = Hello | Submit | Cancel | Finish | FrontStats | MetricsWritten | Drain | GetIterations | GetMetrics
ToFront = (
    Loading | Ready | Failed | Heartbeat | Tokens | Ended | Refused | Status | Leader | Metrics | Drained | Iterations
)

_encoder = msgspec.msgpack.Encoder()
_to_engine = msgspec.msgpack.Decoder(ToEngine)
_to_front = msgspec.msgpack.Decoder(ToFront)


def encode(message: ToEngine | ToFront) -> bytes:
    """A whole frame."""
    body = _encoder.encode(message)
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a byte stream into messages. `feed` raises ValueError on a frame that is too large or undecodable."""

    def __init__(self, *, engine_side: bool) -> None:
        self._decoder = _to_engine if engine_side else _to_front
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[ToEngine | ToFront]:
        """The messages completed by `data`."""
        self._buffer += data
        messages: list[ToEngine | ToFront] = []
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"frame of {length} bytes; allowed are {MAX_FRAME_BYTES}")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                messages.append(self._decoder.decode(bytes(self._buffer[_LENGTH.size : end])))
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, MemoryError) as error:
                raise ValueError(f"undecodable frame: {error}") from None
            del self._buffer[:end]
        return messages
