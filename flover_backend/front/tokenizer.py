"""Text -> token ids with the model's tokenizer.json. Safe to use from several threads; encoding releases the GIL."""

from __future__ import annotations

from pathlib import Path

from tokenizers import Tokenizer as HuggingFaceTokenizer

from flover_backend.errors import ConfigError
from flover_backend.front.detokenizer import TokenBytes

_PROBE = "a"


class Tokenizer:
    """The tokenizer of one model directory, and the bytes of its tokens for the way back."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` when tokenizer.json cannot be read."""
        try:
            self._tokenizer = HuggingFaceTokenizer.from_file(str(path))
        except Exception as error:  # NOTE: the library raises bare Exception.
            raise ConfigError(f"{path}: not a readable tokenizer.json: {error}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.token_bytes = TokenBytes(self._tokenizer)
        self._prefix = self._find_prefix()

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, after the tokenizer's BOS unless the text begins with it.

        Names of special tokens in the text (a rendered chat template has them) become these tokens.
        """
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids if ids[: len(self._prefix)] == self._prefix else self._prefix + ids

    def _find_prefix(self) -> list[int]:
        """What the tokenizer's post-processor puts before a text. (What it puts behind would end the prompt.)"""
        plain = self._tokenizer.encode(_PROBE, add_special_tokens=False).ids
        whole: list[int] = self._tokenizer.encode(_PROBE, add_special_tokens=True).ids
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start]
        return []


def load_tokenizer(model_dir: Path) -> Tokenizer | None:
    """The directory's tokenizer, or None when it has none. Raises `ConfigError`."""
    path = model_dir / "tokenizer.json"
    return Tokenizer(path) if path.exists() else None
