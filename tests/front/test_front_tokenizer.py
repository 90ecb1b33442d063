"""Text -> ids: BOS as the tokenizer says, once; special tokens by name; unreadable files."""

from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers_of_kinds import byte_level, saved, sentencepiece_like

from flover_backend.errors import ConfigError
from flover_backend.front.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture
def with_bos(tmp_path: Path) -> Tokenizer:
    return Tokenizer(saved(sentencepiece_like(), tmp_path))


def test_bos_comes_first(with_bos: Tokenizer) -> None:
    assert with_bos.encode("the")[0] == 1


def test_a_text_that_begins_with_bos_gets_no_second(with_bos: Tokenizer) -> None:
    ids = with_bos.encode("<s>the")
    assert ids[0] == 1 and ids.count(1) == 1


def test_bos_in_the_middle_stays(with_bos: Tokenizer) -> None:
    assert with_bos.encode("the<s>").count(1) == 2


def test_a_tokenizer_without_bos_adds_none(tmp_path: Path) -> None:
    tokenizer = byte_level()
    assert Tokenizer(saved(tokenizer, tmp_path)).encode("ab") == tokenizer.encode("ab", add_special_tokens=False).ids


def test_names_of_special_tokens_become_these(tmp_path: Path) -> None:
    tokenizer = byte_level()
    assert Tokenizer(saved(tokenizer, tmp_path)).encode("<|end|>") == [tokenizer.token_to_id("<|end|>")]


def test_truncation_and_padding_of_the_file_do_not_count(tmp_path: Path) -> None:
    tokenizer = byte_level()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(length=10)
    assert len(Tokenizer(saved(tokenizer, tmp_path)).encode("abcde")) == 5


def test_a_directory_without_tokenizer_json_has_none(tmp_path: Path) -> None:
    assert load_tokenizer(tmp_path) is None


def test_an_unreadable_file_fails_the_load_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text('{"version": "1.0"')
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path)
