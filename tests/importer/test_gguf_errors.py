"""Files that cannot be imported are refused with a text that names what is wrong, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from flover_backend.importer.gguf import import_gguf
from flover_backend.importer.pretokenizers import KNOWN
from flover_backend.importer.source import GGUFError
from tests.importer.gguf_files import GGUFFile
from tests.models.hf_models import SHAPES, make


def _refused(path: Path, match: str) -> None:
    before = sorted(entry.name for entry in path.parent.iterdir())
    with pytest.raises(GGUFError, match=match):
        import_gguf(path, path.parent / "out")
    assert sorted(entry.name for entry in path.parent.iterdir()) == before


def _file() -> GGUFFile:
    return GGUFFile(make(SHAPES["llama-gqa"]))


def _metadata(**changes: object) -> Callable[[GGUFFile], None]:
    return lambda file: file.metadata.update({key.replace("__", "."): value for key, value in changes.items()})


def _architecture(name: str) -> Callable[[GGUFFile], None]:
    return lambda file: setattr(file, "architecture", name)


def _without(name: str) -> Callable[[GGUFFile], None]:
    return lambda file: (file.tensors.pop(name, None), file.metadata.pop(name, None), None)[-1]


def _tensor(name: str, *shape: int) -> Callable[[GGUFFile], None]:
    return lambda file: file.tensors.update({name: np.ones(shape, np.float32)})


CASES = {
    "architecture": (_architecture("gptj"), "general.architecture is 'gptj'; the import knows llama, qwen2, qwen3"),
    "no layers": (_without("llama.block_count"), "metadata key llama.block_count is missing"),
    "odd layers": (_metadata(llama__block_count=-1.5), "llama.block_count is -1.5; a positive whole number"),
    "billions of layers": (_metadata(llama__block_count=2**31 - 1), "block_count is 2147483647, but .* 30 tensors"),
    "experts": (_metadata(llama__expert_count=8), "llama.expert_count is 8; the import does not support it"),
    "window": (_metadata(llama__attention__sliding_window=4096), "llama.attention.sliding_window is 4096"),
    "rope type": (_metadata(llama__rope__scaling__type="yarn"), "llama.rope.scaling.type is 'yarn'"),
    "rope factors": (_tensor("rope_freqs.weight", 7), "rope factors in rope_freqs.weight are not llama3's"),
    "partial rope": (_metadata(llama__rope__dimension_count=8), "llama.rope.dimension_count is 8; .* 16"),
    "missing tensor": (_without("blk.1.ffn_up.weight"), "missing tensors: .'model.layers.1.mlp.up_proj.weight'"),
    "surplus tensor": (_tensor("blk.0.ffn_gate_exps.weight", 2, 2), "does not have: blk.0.ffn_gate_exps.weight"),
    "half a bias": (_tensor("blk.0.attn_q.bias", 64), "tensors without a use: .'blk.0.attn_q.bias'"),
    "shape": (_tensor("blk.2.attn_k.weight", 32, 65), r"blk.2.attn_k.weight is \(32, 65\); .* \(32, 64\)"),
    "no tokens": (_without("tokenizer.ggml.tokens"), "metadata key tokenizer.ggml.tokens is missing"),
    "pre": (
        _metadata(tokenizer__ggml__pre="klingon"),
        "tokenizer.ggml.pre is 'klingon'; the import knows default, gpt-2",
    ),
    "model": (_metadata(tokenizer__ggml__model="rwkv"), "tokenizer.ggml.model is 'rwkv'"),
    "eos": (_metadata(tokenizer__ggml__eos_token_id=999), "tokenizer.ggml.eos_token_id is 999; allowed: 0 .. 306"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused(case: str, tmp_path: Path) -> None:
    change, match = CASES[case]
    file = _file()
    change(file)
    _refused(file.write(tmp_path / "m.gguf"), match)


def test_not_there(tmp_path: Path) -> None:
    _refused(tmp_path / "m.gguf", "m.gguf: No such file")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 a zip", b"{}"])
def test_not_a_gguf(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(content)
    _refused(tmp_path / "m.gguf", "is not a GGUF file: it begins with")


@pytest.mark.parametrize("share", [0.0, 0.0005, 0.01, 0.1, 0.5, 0.9, 0.9999])
def test_truncated(share: float, tmp_path: Path) -> None:
    path = _file().write(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[: max(4, int(path.stat().st_size * share))])
    _refused(path, "truncated or damaged")


def test_damaged_header(tmp_path: Path) -> None:
    path = _file().write(tmp_path / "m.gguf")
    content = path.read_bytes()
    for at in range(8, 400, 7):
        path.write_bytes(content[:at] + b"\xff" * 8 + content[at + 8 :])
        with pytest.raises(GGUFError):
            import_gguf(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def _with_type_number(path: Path, name: str, number: int) -> None:
    """Overwrite the type of a 2-D tensor in the file's table: name, 4 bytes of rank, 16 of shape, 4 of type."""
    content = bytearray(path.read_bytes())
    at = content.index(name.encode()) + len(name) + 4 + 16
    content[at : at + 4] = number.to_bytes(4, "little")
    path.write_bytes(content)


def test_type_without_dequantization(tmp_path: Path) -> None:
    path = _file().write(tmp_path / "m.gguf")
    _with_type_number(path, "blk.0.attn_q.weight", 26)
    _refused(path, "tensor blk.0.attn_q.weight has type I32, which the gguf package cannot")


def test_unknown_type(tmp_path: Path) -> None:
    path = _file().write(tmp_path / "m.gguf")
    _with_type_number(path, "blk.0.attn_q.weight", 12345)
    _refused(path, "12345 is not a valid GGMLQuantizationType")


def test_every_known_pre_tokenizer_cuts_losslessly(tmp_path: Path) -> None:
    text = "It's 12345 o'clock,\n\n  and  WE'LL go -- żółw 你好 🙂 x=+1\t\r\n"
    for name, known in KNOWN.items():
        file = _file()
        file.metadata["tokenizer.ggml.pre"] = name
        folder = import_gguf(file.write(tmp_path / "m.gguf"), tmp_path / "m")
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        encoding = tokenizer.encode(text)
        assert (encoding.ids[0] == 1) == known.add_bos, name
        assert tokenizer.decode(encoding.ids) == text, name
