"""tokenizer.json, tokenizer_config.json and generation_config.json out of a GGUF's metadata.

Byte-level BPE (`tokenizer.ggml.model` = gpt2) with the pre-tokenizer that the file names. Knows no weights.
"""

from __future__ import annotations

from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, processors

from flover_backend.importer.pretokenizers import KNOWN, PreTokenizer
from flover_backend.importer.source import GGUFError, GGUFSource

CONTROL, USER_DEFINED = 3, 4
"""Values of `tokenizer.ggml.token_type`: tokens that stand for no text, tokens that are never cut."""

SPECIAL = {
    "bos_token": "tokenizer.ggml.bos_token_id",
    "eos_token": "tokenizer.ggml.eos_token_id",
    "unk_token": "tokenizer.ggml.unknown_token_id",
    "pad_token": "tokenizer.ggml.padding_token_id",
}
END_KEYS = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id", "tokenizer.ggml.eom_token_id")
"""End of text, of a turn, of a message: each ends generation."""


def make_tokenizer(source: GGUFSource) -> Tokenizer:
    """The tokenizer that the file describes. Raises `GGUFError` for a model or pre-tokenizer that is not known."""
    pre = _pre_tokenizer(source)
    tokens = source.required("tokenizer.ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in source.required("tokenizer.ggml.merges")]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    try:
        tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre.ignore_merges))
    except Exception as error:  # NOTE: the library raises bare Exception.
        raise GGUFError(f"{source.path}: tokenizer.ggml.merges do not fit tokenizer.ggml.tokens: {error}") from None
    tokenizer.pre_tokenizer = pre.build()
    tokenizer.decoder = decoders.ByteLevel()
    _add_tokens(tokenizer, tokens, source.value("tokenizer.ggml.token_type", []))
    _add_affixes(tokenizer, source, tokens, pre)
    if tokenizer.get_vocab_size() != len(tokens):
        raise GGUFError(f"{source.path}: tokenizer.ggml.tokens holds a token twice")
    return tokenizer


def make_tokenizer_config(source: GGUFSource) -> dict[str, Any]:
    """tokenizer_config.json: special tokens, chat template, limits."""
    tokens = source.required("tokenizer.ggml.tokens")
    ids = {name: source.value(key) for name, key in SPECIAL.items()}
    config: dict[str, Any] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    config |= {name: _token(source, tokens, SPECIAL[name], index) for name, index in ids.items() if index is not None}
    config["add_bos_token"] = _adds_bos(source, _pre_tokenizer(source))
    config["add_prefix_space"] = False
    config["clean_up_tokenization_spaces"] = False
    config["model_max_length"] = source.required(f"{source.required('general.architecture')}.context_length")
    template = _chat_template(source)
    return config if template is None else config | {"chat_template": template}


def make_generation_config(source: GGUFSource) -> dict[str, Any]:
    """generation_config.json: the ids that begin, pad and end a text."""
    ends = list(dict.fromkeys(source.value(key) for key in END_KEYS if source.value(key) is not None))
    config: dict[str, Any] = {"bos_token_id": source.value(SPECIAL["bos_token"])}
    config["eos_token_id"] = ends[0] if len(ends) == 1 else ends or None
    config["pad_token_id"] = source.value(SPECIAL["pad_token"])
    return {key: value for key, value in config.items() if value is not None}


def _pre_tokenizer(source: GGUFSource) -> PreTokenizer:
    model = source.required("tokenizer.ggml.model")
    if model != "gpt2":
        raise GGUFError(f"{source.path}: tokenizer.ggml.model is {model!r}; the import knows 'gpt2' (byte-level BPE)")
    name = source.value("tokenizer.ggml.pre", "default")
    if name not in KNOWN:
        raise GGUFError(f"{source.path}: tokenizer.ggml.pre is {name!r}; the import knows {', '.join(KNOWN)}")
    return KNOWN[name]


def _add_tokens(tokenizer: Tokenizer, tokens: list[str], types: list[int]) -> None:
    for token, kind in zip(tokens, types, strict=False):
        if kind == CONTROL:
            tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True)])
        elif kind == USER_DEFINED:
            tokenizer.add_tokens([AddedToken(token, normalized=False, special=False)])


def _add_affixes(tokenizer: Tokenizer, source: GGUFSource, tokens: list[str], pre: PreTokenizer) -> None:
    """BOS before and EOS after a text, as the file says."""
    begin, end = source.value(SPECIAL["bos_token"]), source.value(SPECIAL["eos_token"])
    bos = [_token(source, tokens, SPECIAL["bos_token"], begin)] if _adds_bos(source, pre) else []
    eos = [_token(source, tokens, SPECIAL["eos_token"], end)] if source.value("tokenizer.ggml.add_eos_token") else []
    if bos or eos:
        special = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys([*bos, *eos])]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*bos, "$A", *eos], pair=[*bos, "$A", *eos, *bos, "$B:1", *eos], special_tokens=special
        )


def _adds_bos(source: GGUFSource, pre: PreTokenizer) -> bool:
    return bool(source.value("tokenizer.ggml.add_bos_token", pre.add_bos))


def _token(source: GGUFSource, tokens: list[str], key: str, index: int | None) -> str:
    if not isinstance(index, int) or not 0 <= index < len(tokens):
        raise GGUFError(f"{source.path}: {key} is {index}; allowed: 0 .. {len(tokens) - 1}")
    return tokens[index]


def _chat_template(source: GGUFSource) -> str | list[dict[str, str]] | None:
    """The default template; with further named ones a list, as tokenizer_config.json writes them."""
    default = source.value("tokenizer.chat_template")
    names = [name for name in source.value("tokenizer.chat_templates", []) if name != "default"]
    if default is None or not names:
        return default  # type: ignore[no-any-return]
    texts = {"default": default} | {name: source.required(f"tokenizer.chat_template.{name}") for name in names}
    return [{"name": name, "template": text} for name, text in texts.items()]
