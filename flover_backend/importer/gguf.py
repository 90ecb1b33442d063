"""`import_gguf`: a LLaMA-family GGUF file made into a Hugging Face directory that the engine and transformers load.

The directory appears whole or not at all: it is written beside its place and renamed. `gguf-import.json` in it
holds the hash of the GGUF, so that a second import of the same file does nothing.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from flover_backend.importer.architecture import (
    Shape,
    expected_shapes,
    in_hugging_face_order,
    make_config,
    read_shape,
    tensor_names,
)
from flover_backend.importer.digest import sha256_of
from flover_backend.importer.progress import ReportProgress, silent
from flover_backend.importer.safetensors import NAMES, DType, write_safetensors
from flover_backend.importer.source import GGUFError, GGUFSource
from flover_backend.importer.tokenizer import make_generation_config, make_tokenizer, make_tokenizer_config

STAMP = "gguf-import.json"
FLOAT16_LIMIT = 65520.0
"""Values from here on round to infinity."""
FORMAT = 1
"""Raised when an import of the same file would write something else than before."""


def import_gguf(file: Path, out_dir: Path, dtype: DType = "float32", progress: ReportProgress = silent) -> Path:
    """Write `out_dir` (config.json, model.safetensors, tokenizer files) from the GGUF `file`; return `out_dir`.

    Weights are dequantized to float32 and rounded to `dtype`. Does nothing if `out_dir` holds this very import;
    replaces an import of another file; refuses a directory with anything else in it. Raises `GGUFError`.
    """
    if dtype not in NAMES:
        raise GGUFError(f"dtype is {dtype!r}; allowed: {', '.join(NAMES)}")
    stamp = {"format": FORMAT, "dtype": dtype, "sha256": _sha256(file, progress)}
    if is_current(out_dir, stamp):
        return out_dir
    _refuse_foreign(out_dir)
    source = GGUFSource(file)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", suffix=".partial", dir=out_dir.parent))
    try:
        _write(source, partial, dtype, progress)
        sizes = {path.name: path.stat().st_size for path in sorted(partial.iterdir())}
        _write_json(partial / STAMP, stamp | {"gguf": file.name, "files": sizes})
        _put_in_place(partial, out_dir, stamp)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out_dir


def is_current(out_dir: Path, stamp: Mapping[str, Any]) -> bool:
    """True if `out_dir` holds an import with this stamp (hash, dtype, format) whose files have their sizes."""
    found = _read_stamp(out_dir)
    if any(found.get(key) != value for key, value in stamp.items()):
        return False
    files: dict[str, int] = found["files"]
    return all((out_dir / name).is_file() and (out_dir / name).stat().st_size == n for name, n in files.items())


def _write(source: GGUFSource, folder: Path, dtype: DType, progress: ReportProgress) -> None:
    shape = read_shape(source)
    generation = make_generation_config(source)
    config = make_config(source, shape) | generation | {"dtype": dtype}
    shapes = _checked_shapes(source, shape, config)
    _require_space(folder, shapes, dtype)
    _check_vocabulary(source, shape)
    progress("tokenizer", 0, 1)
    make_tokenizer(source).save(str(folder / "tokenizer.json"))
    _write_json(folder / "config.json", config)
    _write_json(folder / "generation_config.json", generation)
    _write_json(folder / "tokenizer_config.json", make_tokenizer_config(source))
    progress("tokenizer", 1, 1)
    write_safetensors(folder / "model.safetensors", shapes, _tensors(source, shape, dtype, progress), dtype)


def _checked_shapes(source: GGUFSource, shape: Shape, config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Name -> shape in Hugging Face's names, after checking that the file's tensors are those of its config."""
    names, expected = tensor_names(source, shape), expected_shapes(config)
    missing = [name for name in expected if name not in names]
    surplus = [names[name] for name in names if name not in expected]
    if missing or surplus:
        raise GGUFError(
            f"{source.path}: missing tensors: {missing or 'none'}; tensors without a use: {surplus or 'none'}"
        )
    for name, theirs in names.items():
        found = source.shapes[theirs]
        if found != expected[name]:
            raise GGUFError(f"{source.path}: tensor {theirs} is {found}; its metadata says {expected[name]}")
    return {name: expected[name] for name in names}


def _check_vocabulary(source: GGUFSource, shape: Shape) -> None:
    tokens = len(source.required("tokenizer.ggml.tokens"))
    if tokens > shape.vocab_size:
        raise GGUFError(f"{source.path}: {tokens} tokens, but embeddings for {shape.vocab_size}")


def _tensors(
    source: GGUFSource, shape: Shape, dtype: DType, progress: ReportProgress
) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    names = tensor_names(source, shape)
    for done, (ours, theirs) in enumerate(names.items()):
        progress("weights", done, len(names))
        values = source.tensor(theirs)
        if dtype == "float16":
            _require_float16(source, theirs, values)
        yield ours, in_hugging_face_order(theirs, values, shape)
    progress("weights", len(names), len(names))


def _require_float16(source: GGUFSource, name: str, values: npt.NDArray[np.float32]) -> None:
    largest = np.abs(values, where=np.isfinite(values), out=np.zeros_like(values)).max(initial=0)
    if largest >= FLOAT16_LIMIT:
        raise GGUFError(
            f"{source.path}: tensor {name} holds {largest}, which is beyond float16; import it as float32 or bfloat16"
        )


def _require_space(folder: Path, shapes: Mapping[str, tuple[int, ...]], dtype: DType) -> None:
    needed = sum(math.prod(shape) for shape in shapes.values()) * NAMES[dtype][1]
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05:
        raise GGUFError(f"{folder.parent}: {needed:,} bytes are needed for the weights, {free:,} are free")


def _put_in_place(partial: Path, out_dir: Path, stamp: Mapping[str, Any]) -> None:
    """Rename `partial` to `out_dir`. An older import there is set aside first, and removed."""
    partial.chmod(0o755)
    if out_dir.exists():
        old = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", suffix=".old", dir=out_dir.parent))
        os.rename(out_dir, old)
        shutil.rmtree(old)
    try:
        os.rename(partial, out_dir)
    except OSError:
        if not is_current(out_dir, stamp):
            raise


def _refuse_foreign(out_dir: Path) -> None:
    if out_dir.exists() and not _read_stamp(out_dir) and (not out_dir.is_dir() or any(out_dir.iterdir())):
        raise GGUFError(f"{out_dir} exists and was not made by an import; name a new or an empty directory")


def _read_stamp(out_dir: Path) -> dict[str, Any]:
    try:
        found = json.loads((out_dir / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("files"), dict) else {}


def _sha256(file: Path, progress: ReportProgress) -> str:
    """Hex digest of the file. Raises `GGUFError` if it cannot be read."""
    progress("hash", 0, 1)
    try:
        digest = sha256_of(file)
    except OSError as error:
        raise GGUFError(f"{file}: {error.strerror}") from None
    progress("hash", 1, 1)
    return digest


def _write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
