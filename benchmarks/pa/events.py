"""Server-sent events of `/generate_stream` as perf_analyzer stores them: how many tokens they hold. Knows no export."""

from __future__ import annotations

import msgspec

DATA, DONE = "data:", "[DONE]"


class _Event(msgspec.Struct):
    output_ids: int | list[int] | None = None


_decoder = msgspec.json.Decoder(_Event)


def num_tokens(text: str) -> int:
    """Of a response's events, of which several may have come together. One without `output_ids` counts as a token."""
    return sum(_of(line[len(DATA) :].strip()) for line in text.splitlines() if line.startswith(DATA))


def _of(event: str) -> int:
    if event == DONE:
        return 0
    try:
        ids = _decoder.decode(event).output_ids
    except msgspec.ValidationError:
        return 1
    except msgspec.DecodeError:  # an event that was cut
        return 0
    return len(ids) if isinstance(ids, list) else 1
