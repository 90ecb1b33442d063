"""Incremental detokenization: equal to the tokenizer's own decode, whatever the pieces; never half a character."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders
from tokenizers_of_kinds import byte_level, saved, sentencepiece_like

from flover_backend.bundled import path_of
from flover_backend.errors import ConfigError
from flover_backend.front.detokenizer import Detokenizer, TokenBytes
from flover_backend.front.tokenizer import Tokenizer

BUNDLED = HuggingFaceTokenizer.from_file(str(path_of("llama-demo") / "tokenizer.json"))
BYTES = byte_level(["<tool>", "näh weiß"])
PIECES = sentencepiece_like()
TEXTS = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("aé€😀 \n1")), max_size=40)


def detokenize(tokenizer: HuggingFaceTokenizer, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(TokenBytes(tokenizer))
    return [*(detokenizer.push(token_id) for token_id in ids), detokenizer.finish()]


@given(st.lists(st.integers(0, BUNDLED.get_vocab_size() - 1), max_size=60))
@settings(deadline=None)
def test_any_ids_of_the_bundled_model(ids: list[int]) -> None:
    assert "".join(detokenize(BUNDLED, ids)) == BUNDLED.decode(ids, skip_special_tokens=True)


@given(st.lists(st.integers(0, BYTES.get_vocab_size() - 1), max_size=80))
@settings(deadline=None)
def test_any_bytes(ids: list[int]) -> None:
    assert "".join(detokenize(BYTES, ids)) == BYTES.decode(ids, skip_special_tokens=True)


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_text_comes_back_byte_for_byte(text: str) -> None:
    for tokenizer in (BUNDLED, BYTES):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert "".join(detokenize(tokenizer, ids)) == tokenizer.decode(ids)


@given(TEXTS)
@settings(deadline=None)
def test_byte_fallback_text_comes_back_after_the_space_that_the_encoder_put_before_it(text: str) -> None:
    ids = PIECES.encode(text, add_special_tokens=False).ids
    whole = "".join(detokenize(PIECES, ids)).removeprefix(" ")
    assert whole == PIECES.decode(ids)


@given(TEXTS, TEXTS)
@settings(deadline=None)
def test_an_output_continues_its_prompt(prompt: str, output: str) -> None:
    prompt_ids = PIECES.encode("a" + prompt, add_special_tokens=False).ids
    output_ids = PIECES.encode(output, add_special_tokens=False).ids
    assert PIECES.decode(prompt_ids) + "".join(detokenize(PIECES, output_ids)) == PIECES.decode(prompt_ids + output_ids)


@given(st.lists(st.integers(0, 255), max_size=60))
@settings(deadline=None)
def test_no_piece_holds_half_a_character(ids: list[int]) -> None:
    pieces = detokenize(BYTES, ids)
    for piece in pieces:
        piece.encode()  # raises on half a character
    assert "".join(pieces).count("\ufffd") >= "".join(pieces[:-1]).count("\ufffd")


def test_a_character_comes_when_its_last_byte_has_come() -> None:
    assert detokenize(BYTES, BYTES.encode("a😀b").ids) == ["a", "", "", "", "😀", "b", ""]


def test_an_incomplete_character_at_the_end_is_replaced() -> None:
    assert detokenize(BYTES, BYTES.encode("a😀").ids[:-1]) == ["a", "", "", "", "\ufffd"]


def test_special_tokens_and_unknown_ids_are_no_text() -> None:
    end = BYTES.token_to_id("<|end|>")
    assert end is not None
    assert detokenize(BYTES, [end, 100_000]) == ["", "", ""]


def test_a_token_by_itself() -> None:
    table = TokenBytes(BYTES)
    assert table.shown(BYTES.token_to_id("<|end|>")) == "<|end|>"
    assert table.shown(BYTES.token_to_id("<tool>")) == "<tool>"
    assert table.shown(BYTES.encode("😀").ids[0]) == "\ufffd"


def test_a_decoder_that_is_not_known_fails_the_load_by_name(tmp_path: Path) -> None:
    strange = byte_level()
    strange.decoder = decoders.WordPiece()
    with pytest.raises(ConfigError, match="WordPiece"):
        Tokenizer(saved(strange, tmp_path))


def test_a_tokenizer_without_a_decoder_fails_the_load(tmp_path: Path) -> None:
    bare = HuggingFaceTokenizer(byte_level().model)
    with pytest.raises(ConfigError, match="no decoder"):
        Tokenizer(saved(bare, tmp_path))
