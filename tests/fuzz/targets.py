"""What is fuzzed, by name: a function of bytes that raises when something is wrong, and its folder of the corpus."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import channel_targets
import engine_targets
import file_targets
import parser_targets

CORPUS = Path(__file__).parent / "corpus"
TARGETS: dict[str, Callable[[bytes], None]] = {
    "sampling-parameters": parser_targets.read_json,
    "request-parameters": parser_targets.read_request_parameters,
    "tensors": parser_targets.read_tensors,
    "prompts": parser_targets.tokenize,
    "frames": channel_targets.read_frame,
    "streams": channel_targets.read_stream,
    "engine": engine_targets.drive,
    "gguf": file_targets.import_file,
    "config-json": file_targets.load_config,
    "safetensors": file_targets.load_weights,
    "tokenizer-json": file_targets.load_tokenizer,
    "weights-index": file_targets.load_index,
}


def corpus_of(name: str) -> list[Path]:
    return sorted((CORPUS / name).iterdir())
