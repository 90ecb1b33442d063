"""Bytes as files of a model that somebody downloaded: each loads, or is refused by an error that names the file."""

from __future__ import annotations

import contextlib
import shutil
import struct
import tempfile
from pathlib import Path

import tiny_llama

from flover_backend.errors import ConfigError, InvalidRequest
from flover_backend.front.tokenizer import Tokenizer
from flover_backend.importer.gguf import import_gguf
from flover_backend.importer.source import GGUFError
from flover_backend.models.load import load_model

TEXTS = ("The fox, 5 < 6.\n", "", "\0", "世界🤖 é", "a" * 300)
_folders: list[tempfile.TemporaryDirectory[str]] = []


def folder() -> Path:
    """A directory with a tiny model in `good`, for this process."""
    if not _folders:
        _folders.append(tempfile.TemporaryDirectory(prefix="flover-fuzz-"))
        tiny_llama.write(Path(_folders[0].name) / "good")
    return Path(_folders[0].name)


def import_file(data: bytes) -> None:
    """`data` is a GGUF file from its version number on."""
    path, out = folder() / "model.gguf", folder() / "out"
    path.write_bytes(b"GGUF" + data)
    try:
        import_gguf(path, out)
    except GGUFError as error:
        assert str(path) in str(error) or str(out) in str(error)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def load_config(data: bytes) -> None:
    """`data` is config.json of a directory whose weights are good."""
    _load("config.json", data)


def load_weights(data: bytes) -> None:
    """`data` is the header of model.safetensors, behind its length, and what follows."""
    _load("model.safetensors", struct.pack("<Q", max(0, len(data) - 64)) + data)


def load_index(data: bytes) -> None:
    """`data` is model.safetensors.index.json."""
    _load("model.safetensors.index.json", data, without="model.safetensors")


def load_tokenizer(data: bytes) -> None:
    """`data` is tokenizer.json; what loads must cut texts, too."""
    path = folder() / "tokenizer.json"
    path.write_bytes(data)
    try:
        tokenizer = Tokenizer(path)
    except ConfigError as error:
        assert "tokenizer.json: " in str(error)
        return
    for text in TEXTS:
        with contextlib.suppress(InvalidRequest):
            for token in tokenizer.encode(text):
                assert isinstance(tokenizer.token_bytes[token], bytes)


def _load(name: str, data: bytes, without: str = "") -> None:
    directory = folder() / "bad"
    shutil.rmtree(directory, ignore_errors=True)
    shutil.copytree(folder() / "good", directory)
    if without:
        (directory / without).unlink()
    (directory / name).write_bytes(data)
    try:
        load_model(directory, "auto", "cpu", lambda stage, fraction: None)
    except ConfigError as error:
        assert str(directory) in str(error), error
