"""What the sample client of Triton's vLLM backend does, by its documented flags: the same requests on the same wire.

One asyncio gRPC stream carries a request for each line of a file of prompts, again for each iteration. The parameters
go twice, as a JSON tensor and as request parameters, all values strings; the answers' texts are told apart by the ids.
Written from the flags and the traffic alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException, np_to_triton_dtype


def parse(arguments: list[str]) -> argparse.Namespace:
    """The flags, with the defaults that they have there."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-m", "--model", default="vllm_model")
    parser.add_argument("-u", "--url", default="localhost:8001")
    parser.add_argument("-v", "--verbose", action="store_true")
    parser.add_argument("-t", "--stream-timeout", type=float)
    parser.add_argument("-s", "--streaming-mode", action="store_true")
    parser.add_argument("-l", "--lora-name")
    parser.add_argument("--offset", type=int, default=0)
    parser.add_argument("--iterations", type=int, default=1)
    parser.add_argument("--input-prompts", type=Path, default=Path("prompts.txt"))
    parser.add_argument("--results-file", type=Path, default=Path("results.txt"))
    parser.add_argument("--exclude-inputs-in-outputs", action="store_true")
    return parser.parse_args(arguments)


@dataclass
class Outcome:
    """`texts`: request id -> the strings of its responses, in the order of asking. `failed`: the stream broke."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    failed: str = ""


async def run(arguments: list[str], *, sends_exclude: bool = True) -> Outcome:
    """Send all, read to the stream's end, write the results file. Releases before 24.08 do not `sends_exclude`."""
    flags = parse(arguments)
    prompts = flags.input_prompts.read_text().splitlines(keepends=True)
    outcome = Outcome()
    async with triton.InferenceServerClient(url=flags.url, verbose=flags.verbose) as client:
        requests = _requests(flags, prompts, sends_exclude, outcome)
        try:
            async for result, error in client.stream_infer(requests, stream_timeout=flags.stream_timeout):
                if error is not None:
                    outcome.errors.append(error.message())
                    continue
                strings = [text.decode() for text in result.as_numpy("text_output")]
                outcome.texts[result.get_response().id] += strings
        except (InferenceServerException, grpc.aio.AioRpcError) as error:
            outcome.failed = str(error)
    answers = ("".join(texts) for texts in outcome.texts.values())
    flags.results_file.write_text("".join(f"{answer}\n\n=========\n\n" for answer in answers))
    return outcome


async def _requests(
    flags: argparse.Namespace, prompts: list[str], sends_exclude: bool, outcome: Outcome
) -> AsyncIterator[dict[str, Any]]:
    sampling = {"temperature": "0.1", "top_p": "0.95", "max_tokens": "100"}
    if flags.lora_name is not None:
        sampling["lora_name"] = flags.lora_name
    for number, prompt in enumerate(prompts * flags.iterations, start=flags.offset):
        outcome.texts[str(number)] = []
        arrays = {
            "text_input": np.array([prompt.encode()], dtype=np.object_),
            "stream": np.array([flags.streaming_mode]),
            "sampling_parameters": np.array([json.dumps(sampling).encode()], dtype=np.object_),
        }
        if sends_exclude:
            arrays["exclude_input_in_output"] = np.array([flags.exclude_inputs_in_outputs])
        yield {
            "model_name": flags.model,
            "inputs": [_input(name, array) for name, array in arrays.items()],
            "outputs": [triton.InferRequestedOutput("text_output")],
            "request_id": str(number),
            "parameters": sampling,
        }


def _input(name: str, array: np.ndarray) -> Any:
    found = triton.InferInput(name, list(array.shape), np_to_triton_dtype(array.dtype))
    found.set_data_from_numpy(array)
    return found
