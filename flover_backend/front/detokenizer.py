"""Token ids -> text, a few tokens at a time.

A byte-level table: each token stands for bytes (read off the tokenizer's own decoder), and one incremental UTF-8
decoder turns the bytes of a sequence into text. So a delta never holds half a character, the deltas concatenate to
the whole text whatever their boundaries, and the work is in proportion to the new tokens. Bytes that are no UTF-8
become U+FFFD. An output continues its prompt: the white space that some decoders strip from the start of a text stays.
"""

from __future__ import annotations

import codecs
import json
from typing import Any

from tokenizers import Tokenizer as HuggingFaceTokenizer

from flover_backend.errors import ConfigError


def _byte_level_alphabet() -> dict[str, int]:
    """The characters that byte-level BPE writes for bytes (GPT-2's table): printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    shifted = {chr(256 + position): byte for position, byte in enumerate(others)}
    return {chr(byte): byte for byte in printable} | shifted


_ALPHABET = _byte_level_alphabet()


class TokenBytes:
    """The bytes of each token of one tokenizer.json. Special tokens have none. Safe to share between threads."""

    def __init__(self, tokenizer: HuggingFaceTokenizer) -> None:
        """Raises `ConfigError` when the tokenizer's decoder is of a kind that this table cannot express."""
        self._tokenizer = tokenizer
        added = tokenizer.get_added_tokens_decoder()
        self._special = {token_id: token.content for token_id, token in added.items() if token.special}
        self._byte_level = False
        self._byte_fallback = False
        self._replacements: list[tuple[str, str]] = []
        self._read_decoder(json.loads(tokenizer.to_str()).get("decoder"))
        self._known: dict[int, bytes] = dict.fromkeys(self._special, b"")

    def _read_decoder(self, decoder: dict[str, Any] | None) -> None:
        kind = decoder["type"] if decoder else None
        if decoder is None:
            raise ConfigError("tokenizer.json: it has no decoder; ByteLevel, Metaspace or a Sequence is expected")
        if kind == "Sequence":
            for part in decoder["decoders"]:
                self._read_decoder(part)
        elif kind == "ByteLevel":
            self._byte_level = True
        elif kind == "ByteFallback":
            self._byte_fallback = True
        elif kind == "Metaspace":
            self._replacements.append((decoder["replacement"], " "))
        elif kind == "Replace" and "String" in decoder["pattern"]:
            self._replacements.append((decoder["pattern"]["String"], decoder["content"]))
        elif kind not in ("Fuse", "Strip"):
            raise ConfigError(
                f"tokenizer.json: decoder {kind!r} is not supported; supported are ByteLevel, and Sequences of "
                "Replace, ByteFallback, Fuse, Strip, Metaspace"
            )

    def __getitem__(self, token_id: int) -> bytes:
        """The token's bytes; none for a special token or an id that the tokenizer does not know."""
        found = self._known.get(token_id)
        if found is None:
            found = self._known[token_id] = self._read(self._tokenizer.id_to_token(token_id))
        return found

    def shown(self, token_id: int) -> str:
        """The token by itself, for logprobs: a special token by its name, stray bytes as U+FFFD."""
        return self._special.get(token_id) or self[token_id].decode(errors="replace")

    def _read(self, token: str | None) -> bytes:
        if token is None:
            return b""
        if self._byte_level and all(character in _ALPHABET for character in token):
            return bytes(_ALPHABET[character] for character in token)
        if self._byte_fallback and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            return bytes.fromhex(token[3:5])
        for pattern, content in self._replacements:
            token = token.replace(pattern, content)
        return token.encode()


class Detokenizer:
    """The text of one sequence."""

    def __init__(self, token_bytes: TokenBytes) -> None:
        self._token_bytes = token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")

    def push(self, token_id: int) -> str:
        """The characters that this token completes; often none."""
        return self._decoder.decode(self._token_bytes[token_id])

    def finish(self) -> str:
        """What is left at the end: U+FFFD for an incomplete character, else nothing."""
        return self._decoder.decode(b"", final=True)
