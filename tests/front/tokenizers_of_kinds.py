"""Small tokenizers of the kinds that LLaMA-family models come with, made on the spot."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers import Tokenizer as HuggingFaceTokenizer


def sentencepiece_like() -> HuggingFaceTokenizer:
    """As LLaMA 2's: spaces are U+2581, unknown characters become byte tokens, BOS by the post-processor."""
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokens += ["▁", *"abcdefghijklmnopqrstuvwxyzé", "▁t", "he", "▁the", "an"]
    vocabulary = {token: number for number, token in enumerate(tokens)}
    merges = [("▁", "t"), ("h", "e"), ("▁t", "he"), ("a", "n")]
    tokenizer = HuggingFaceTokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def byte_level(extra: list[str] | None = None) -> HuggingFaceTokenizer:
    """As LLaMA 3's or Qwen's: byte-level BPE, one token a byte here, and a few added tokens that are plain text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = HuggingFaceTokenizer(models.BPE({token: number for number, token in enumerate(alphabet)}, []))
    split = pre_tokenizers.Split(Regex(r"\d"), "isolated")
    byte_level_split = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level_split])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens([AddedToken(text, special=False) for text in extra or []])
    return tokenizer


def saved(tokenizer: HuggingFaceTokenizer, folder: Path) -> Path:
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path
