"""Exports of perf_analyzer made by hand, in its layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MS = 1_000_000
START = 1_700_000_000_000_000_000


def request(
    sent_ms: float,
    responses: list[tuple[float, dict[str, Any]]],
    **inputs: Any,
) -> dict[str, Any]:
    """`responses`: (milliseconds after the epoch of the run, outputs) of each."""
    return {
        "timestamp": START + round(sent_ms * MS),
        "request_inputs": {"stream": True, "return_num_output_tokens": True, **inputs},
        "response_timestamps": [START + round(when * MS) for when, _ in responses],
        "response_outputs": [outputs for _, outputs in responses],
    }


def tokens(*ids: int) -> dict[str, Any]:
    """A response with these ids; one id is a number, as perf_analyzer writes it."""
    return {
        "text_output": "x" * len(ids),
        "output_ids": list(ids) if len(ids) != 1 else ids[0],
        "num_output_tokens": len(ids),
        "num_input_tokens": 2348810384,  # not returned, so that old memory shows
        "logprobs": "",
    }


def write(path: Path, *experiments: list[dict[str, Any]]) -> Path:
    document = {
        "experiments": [
            {
                "experiment": {"mode": "concurrency", "value": number},
                "requests": requests,
                "window_boundaries": [0, 18446744073709551615],
            }
            for number, requests in enumerate(experiments, start=1)
        ],
        "version": "2.51.0",
        "service_kind": "triton",
        "endpoint": "",
    }
    path.write_text(json.dumps(document))
    return path
