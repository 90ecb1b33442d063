"""One GGUF file, opened and checked: its metadata as Python values, its tensors as float32. Knows no architecture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from flover_backend.errors import FloverError
from flover_backend.importer.header import check_header

MAGIC = b"GGUF"


class GGUFError(FloverError):
    """The file is no GGUF, is damaged, or holds what the import cannot bring over. The text names it."""

    code = "INVALID_ARG"


class GGUFSource:
    """Reads a GGUF file by memory mapping; tensors are dequantized one at a time, when asked for."""

    def __init__(self, path: Path) -> None:
        """Open `path` and read all metadata. Raises `GGUFError`."""
        _check_magic(path)
        self.path = path
        self._reader = _open(path)
        self._tensors: dict[str, Any] = {tensor.name: tensor for tensor in self._reader.tensors}
        self._check_types()

    def value(self, key: str, default: Any = None) -> Any:
        """Value of a metadata key: str, int, float, bool or a list of them; `default` where the file has none."""
        field = self._reader.fields.get(key)
        try:
            return default if field is None else field.contents()
        except ValueError as error:
            raise GGUFError(f"{self.path}: metadata key {key} is no UTF-8 ({error}); fetch the file again") from None

    def required(self, key: str) -> Any:
        """Value of a metadata key that the import cannot do without. Raises `GGUFError`."""
        value = self.value(key)
        if value is None:
            raise GGUFError(f"{self.path}: metadata key {key} is missing")
        return value

    def names(self) -> list[str]:
        """All metadata keys, in the file's order."""
        return list(self._reader.fields)

    @property
    def shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of each tensor in torch's order (rows first), in the file's order of tensors."""
        return {name: tuple(int(n) for n in reversed(t.shape)) for name, t in self._tensors.items()}

    def tensor(self, name: str) -> npt.NDArray[np.float32]:
        """The tensor dequantized, float32, in torch's shape. A new array or a read-only view of the file."""
        tensor = self._tensors[name]
        values: npt.NDArray[np.float32] = gguf.dequantize(tensor.data, tensor.tensor_type)
        return values.reshape(self.shapes[name])

    def _check_types(self) -> None:
        supported: dict[gguf.GGMLQuantizationType, bool] = {}
        for tensor in self._tensors.values():
            kind = tensor.tensor_type
            if kind not in supported:
                supported[kind] = _can_dequantize(kind)
            if not supported[kind]:
                raise GGUFError(
                    f"{self.path}: tensor {tensor.name} has type {kind.name}, which the gguf package cannot "
                    f"dequantize; take a file in another quantization, such as F16, Q8_0, Q4_K or Q4_1"
                )


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise GGUFError(f"{path}: {error.strerror}") from None
    if magic != MAGIC:
        raise GGUFError(f"{path} is not a GGUF file: it begins with {magic!r}, a GGUF file with {MAGIC!r}")


def _open(path: Path) -> gguf.GGUFReader:
    try:
        check_header(path)
        return gguf.GGUFReader(path)
    except ValueError as error:
        if "GGMLQuantizationType" in str(error):
            raise GGUFError(
                f"{path}: a tensor has an unknown type ({error}); a newer gguf package may know it"
            ) from None
        raise _damaged(path, error) from None
    except (IndexError, KeyError, OverflowError, MemoryError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> GGUFError:
    size = path.stat().st_size
    return GGUFError(
        f"{path} is truncated or damaged: its {size:,} bytes end before what its header announces, or the header "
        f"makes no sense ({type(error).__name__}: {error}). Fetch the file again"
    )


def _can_dequantize(kind: gguf.GGMLQuantizationType) -> bool:
    """Try one block of zeros, so that an unsupported type is found before anything is written."""
    _, type_size = gguf.GGML_QUANT_SIZES[kind]
    try:
        gguf.dequantize(np.zeros((1, type_size), np.uint8), kind)
    except NotImplementedError:
        return False
    return True
