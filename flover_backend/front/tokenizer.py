"""Text -> token ids with the model's tokenizer.json. Safe to use from several threads; encoding releases the GIL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer as HuggingFaceTokenizer

from flover_backend.errors import ConfigError, FloverError, InvalidRequest
from flover_backend.front.detokenizer import TokenBytes

_PROBE = "a"
MAX_TOKEN_ID = (1 << 24) - 1
"""Sixty times the largest vocabularies."""


class Tokenizer:
    """The tokenizer of one model directory, and the bytes of its tokens for the way back."""

    def __init__(self, path: Path) -> None:
        """Raises `ConfigError` when tokenizer.json cannot be read."""
        try:
            with _library_errors():
                self._tokenizer = HuggingFaceTokenizer.from_file(str(path))
                _check_ids(self._tokenizer)
                self._tokenizer.no_truncation()
                self._tokenizer.no_padding()
                self.token_bytes = TokenBytes(self._tokenizer)
                self._prefix = self._find_prefix()
        except _LibraryError as error:
            raise ConfigError(f"{path}: not a readable tokenizer.json: {error}") from None

    def encode(self, text: str) -> list[int]:
        """Ids of `text`, after the tokenizer's BOS unless the text begins with it.

        Names of special tokens in the text (a rendered chat template has them) become these tokens.
        Raises `InvalidRequest` for a text that the tokenizer has no tokens for.
        """
        try:
            with _library_errors():
                ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        except _LibraryError as error:
            raise InvalidRequest(f"text_input: the model's tokenizer cannot cut this text: {error}") from None
        return ids if ids[: len(self._prefix)] == self._prefix else self._prefix + ids

    def _find_prefix(self) -> list[int]:
        """What the tokenizer's post-processor puts before a text. (What it puts behind would end the prompt.)"""
        plain = self._tokenizer.encode(_PROBE, add_special_tokens=False).ids
        whole: list[int] = self._tokenizer.encode(_PROBE, add_special_tokens=True).ids
        for start in range(len(whole) - len(plain) + 1):
            if whole[start : start + len(plain)] == plain:
                return whole[:start]
        return []


class _LibraryError(Exception):
    """What the library says."""


@contextmanager
def _library_errors() -> Iterator[None]:
    """NOTE: the library raises bare Exception, and when its Rust code panics a BaseException that is no Exception."""
    try:
        yield
    except (FloverError, KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise _LibraryError(str(error)) from None


def _check_ids(tokenizer: HuggingFaceTokenizer) -> None:
    """Describing itself, the library walks through all numbers up to the largest id: minutes for a damaged one."""
    largest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=0)
    if largest > MAX_TOKEN_ID:
        raise ConfigError(f"tokenizer.json: token id {largest}; allowed: 0 .. {MAX_TOKEN_ID}")


def load_tokenizer(model_dir: Path) -> Tokenizer | None:
    """The directory's tokenizer, or None when it has none. Raises `ConfigError`."""
    path = model_dir / "tokenizer.json"
    return Tokenizer(path) if path.exists() else None
