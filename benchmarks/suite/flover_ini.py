"""Flover's own configuration file (`src/flover/models/flover/configs/*.ini` of its release) as a model and a workload.

Each key is used, ignored with a reason, or refused with a reason: `KEYS` is the table that the documents show. Knows
the file's form and nothing of how a workload is served.
"""

from __future__ import annotations

import configparser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.suite.workload import Workload
from benchmarks.suite.workloads import SEED, Profile, constant, data, profile, random_totals
from flover_backend.bench_engine.shapes import Shape
from flover_backend.errors import ConfigError
from flover_backend.models.config import parse_llama
from flover_backend.models.gptj_config import parse_gptj

DTYPES = {"fp16": "float16", "bf16": "bfloat16", "fp32": "float32"}
MIN_RANDOM_TOTAL = 128
"""Of `use_mem_shuffle=1`, fixed in Flover's driver, test_flover."""
GREEDY = "every way of the suite is greedy, and all requests go on to their length"
ONE_GPU = "an engine of the suite computes on one GPU"

KEYS: dict[str, dict[str, str]] = {
    "model_specification": {
        "model_type": "names the section that holds the model's shape",
        "model_dir": "ignored: weights in FasterTransformer's own form are not read; `--model` alone serves others",
        "data_type": "`dtype`: fp16, bf16 or fp32",
        "max_concurrency": "the number of requests (as in Flover's driver), and `max_rows`",
        "per_batch_size": "so many requests at each arrival",
        "max_seq_len": "`max_model_len`, and the most of the random totals, which are from 128 on",
        "fixed_input_len": "tokens of each prompt",
        "fixed_prompt_len": "0; more is refused: prompt tuning is not served",
        "beam_width": "1; more is refused: beam search is not served",
        "tensor_para_size": f"1; more is refused: {ONE_GPU}",
        "pipeline_para_size": f"1; more is refused: {ONE_GPU} (nor does Flover support it)",
    },
    "runtime_hyperparameter": {
        "top_k": f"ignored: {GREEDY}",
        "top_p": f"ignored: {GREEDY}",
        "temperature": f"ignored: {GREEDY} (Flover's driver draws it at random)",
        "repetition_penalty": f"ignored: {GREEDY}",
        "presence_penalty": f"ignored: {GREEDY}",
        "min_length": f"ignored: {GREEDY}",
        "len_penalty": "ignored: it weighs beams, of which there is one",
        "beam_search_diversity_rate": "ignored: it weighs beams, of which there is one",
        "data_type": "as in `[model_specification]`, with which it must agree",
        "enable_custom_all_reduce": f"ignored: {ONE_GPU}",
        "interval": "the constant gap in milliseconds, scaled as the papers' gaps are (`--scale 1`: as written)",
        "use_mem_shuffle": "1: random totals up to `max_seq_len`, `fused` and `none`; 0 (default): equal lengths",
    },
    "request": {
        "request_output_len": "new tokens of each request where `use_mem_shuffle` is 0; ignored where it is 1",
        "memory_len": "0; more is refused: requests keep all of their KV",
    },
    "MODEL": {
        "head_num": "`num_attention_heads` of the shape",
        "size_per_head": "`head_dim`",
        "inter_size": "`intermediate_size`",
        "decoder_layers": "`num_hidden_layers`",
        "rotary_embedding": "`rotary_dim` of a GPT-J; of a LLaMA it must equal `size_per_head`",
        "vocab_size": "`vocab_size`",
        "start_id": "`bos_token_id`",
        "end_id": "`eos_token_id`",
        "layernorm_eps": "the norms' epsilon",
        "weight_data_type": "ignored: weights are held in `data_type`",
        "model_dir": "ignored, as above",
        "shared_contexts_ratio": "ignored: prompts differ, there is nothing to share",
        "num_tasks": "ignored where `prompt_learning_type` is 0",
        "prompt_learning_type": "0; more is refused: prompt tuning is not served",
        "prompt_learning_start_id": "ignored where `prompt_learning_type` is 0",
    },
}
"""[section][key]; `MODEL` stands for the section that `model_type` names. Sections of other models are not read."""
ONLY: dict[tuple[str, str], int] = {
    ("model_specification", "fixed_prompt_len"): 0,
    ("model_specification", "beam_width"): 1,
    ("model_specification", "tensor_para_size"): 1,
    ("model_specification", "pipeline_para_size"): 1,
    ("request", "memory_len"): 0,
    ("MODEL", "prompt_learning_type"): 0,
}
"""Keys of which one value is served."""


@dataclass(frozen=True, slots=True)
class FloverConfig:
    """What a file asks for."""

    path: Path
    shape: Shape
    num_requests: int
    per_batch_size: int
    max_seq_len: int
    prompt: int
    interval_ms: float
    random_lengths: bool
    output_len: int
    ignored: tuple[str, ...]
    """`key=value: why`, in the file's order."""

    @property
    def keys(self) -> dict[str, Any]:
        """Settings of model.json."""
        return {"max_rows": self.num_requests * self.per_batch_size, "max_model_len": self.max_seq_len}

    @property
    def ways(self) -> tuple[str, ...]:
        """Reordering shows only where lengths differ."""
        return ("fused", "none") if self.random_lengths else ("fused",)

    def sizes(self, base: Profile) -> Profile:
        """`base` with the file's lengths."""
        total = self.max_seq_len if self.random_lengths else self.prompt + self.output_len
        lengths = {"prompt": self.prompt, "total": total, "min_total": MIN_RANDOM_TOTAL, "max_totals": (total,)}
        return msgspec.structs.replace(base, **lengths)

    def workload(self, scale: float, vocab_size: int) -> Workload:
        """The file's requests."""
        count, sizes = self.num_requests, self.sizes(profile("paper"))
        if self.random_lengths:
            one = random_totals(count, self.max_seq_len, self.interval_ms, scale, sizes, vocab_size, SEED)
        else:
            one = constant(count, self.interval_ms, scale, sizes, vocab_size, SEED)
        requests = tuple(request for request in one.requests for _ in range(self.per_batch_size))
        facts = one.facts | {"flover_config": self.path.name, "per_batch_size": self.per_batch_size}
        return Workload(one.name, one.kind, requests, facts | {"num_requests": len(requests)})


def read_flover_config(path: Path) -> FloverConfig:
    """Raises `ConfigError` for a file that cannot be read, a key that Flover does not know and what is refused."""
    return _Reader(path).config()


class _Reader:
    """One file; sections' names in any case, as Flover's own reader takes them."""

    def __init__(self, path: Path) -> None:
        self._path = path
        parser = configparser.ConfigParser(inline_comment_prefixes=(";", "#"), interpolation=None, strict=True)
        try:
            parser.read_string(path.read_text(), str(path))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"--flover-config {path} cannot be read: {error}") from None
        except configparser.Error as error:
            raise ConfigError(f"--flover-config {path} is no INI file: {error.message}") from None
        self._sections = {name.lower(): dict(parser[name]) for name in parser.sections()}
        self._ignored: list[str] = []
        self._model_type = self._text("model_specification", "model_type")
        for section in KEYS:
            self._check(section)

    def _check(self, section: str) -> None:
        name, known = self._name(section), KEYS[section]
        if name not in self._sections:
            raise self._refused(f"has no section [{name}]")
        for key, value in self._sections[name].items():
            if key not in known:
                raise self._refused(f"[{name}] {key}: Flover has no such key; allowed: {', '.join(known)}")
            if (section, key) in ONLY and self._number(section, key) != ONLY[section, key]:
                raise self._refused(f"[{name}] {key}={value}; allowed: {known[key].replace('`', '')}")
            if known[key].startswith("ignored"):
                self._ignored.append(f"{key}={value}: {known[key].removeprefix('ignored').lstrip(':, ')}")

    def _name(self, section: str) -> str:
        return self._model_type.lower() if section == "MODEL" else section

    def config(self) -> FloverConfig:
        """After every key was checked."""
        spec = "model_specification"
        random_lengths = self._flag("runtime_hyperparameter", "use_mem_shuffle")
        config = FloverConfig(
            path=self._path,
            shape=self._shape(),
            num_requests=self._number(spec, "max_concurrency", 1),
            per_batch_size=self._number(spec, "per_batch_size", 1),
            max_seq_len=self._number(spec, "max_seq_len", 2),
            prompt=self._number(spec, "fixed_input_len", 1),
            interval_ms=float(self._number("runtime_hyperparameter", "interval", 0)),
            random_lengths=random_lengths,
            output_len=self._number("request", "request_output_len", 1),
            ignored=tuple(self._ignored),
        )
        if not random_lengths and config.prompt + config.output_len > config.max_seq_len:
            raise self._refused(
                f"fixed_input_len {config.prompt} + request_output_len {config.output_len}; "
                f"allowed: at most max_seq_len, {config.max_seq_len}"
            )
        if random_lengths and config.max_seq_len < MIN_RANDOM_TOTAL:
            raise self._refused(f"max_seq_len={config.max_seq_len}; allowed with use_mem_shuffle=1: from 128 on")
        return config

    def _shape(self) -> Shape:
        """Of the section that `model_type` names, in the words of config.json."""
        heads, dim = self._number("MODEL", "head_num", 1), self._number("MODEL", "size_per_head", 1)
        layers, inner = self._number("MODEL", "decoder_layers", 1), self._number("MODEL", "inter_size", 1)
        rotary = self._number("MODEL", "rotary_embedding", 1)
        shared = {
            "vocab_size": self._number("MODEL", "vocab_size", 1),
            "bos_token_id": self._number("MODEL", "start_id", 0),
            "eos_token_id": self._number("MODEL", "end_id", 0),
            "torch_dtype": self._dtype(),
        }
        family, epsilon = self._model_type.lower().partition("_")[0], self._epsilon()
        length = self._number("model_specification", "max_seq_len", 2)
        if family == "gptj":
            config = shared | {
                "architectures": ["GPTJForCausalLM"],
                "n_embd": heads * dim,
                "n_layer": layers,
                "n_head": heads,
                "n_positions": length,
                "n_inner": inner,
                "rotary_dim": rotary,
                "activation_function": "gelu_new",
                "layer_norm_epsilon": epsilon,
            }
            return self._served(config, parse_gptj, (heads * dim, inner, layers))
        if family != "llama":
            raise self._refused(f"model_type={self._model_type}; allowed: gptj_6b, or llama_ with its size")
        if rotary != dim:
            raise self._refused(
                f"rotary_embedding={rotary}; allowed: size_per_head, {dim}: a LLaMA turns all of a head"
            )
        config = shared | {
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": heads * dim,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": heads,
            "head_dim": dim,
            "max_position_embeddings": length,
            "rms_norm_eps": epsilon,
        }
        return self._served(config, parse_llama, (heads * dim, inner, layers))

    def _served(self, config: dict[str, Any], parse: Callable[..., Any], sizes: tuple[int, ...]) -> Shape:
        try:
            parse(config["architectures"][0], config, {})
        except ConfigError as error:
            raise self._refused(f"[{self._name('MODEL')}] as a config.json: {error}") from None
        return Shape(self._short_name(sizes), self._model_type, config)

    def _short_name(self, sizes: tuple[int, ...]) -> str:
        """As the suite names models: 13b, gptj-6b; with its sizes where they are not those of the paper's model."""
        name = self._model_type.lower().removeprefix("llama_").replace("_", "-")
        known = data().papers.get(name)
        return name if known is not None and known.sizes == sizes else f"{name}-{'x'.join(map(str, sizes))}"

    def _dtype(self) -> str:
        value = self._text("model_specification", "data_type")
        other = self._sections["runtime_hyperparameter"].get("data_type", value)
        if value not in DTYPES or other != value:
            raise self._refused(f"data_type={value} and {other}; allowed: one of {', '.join(DTYPES)} in both sections")
        return DTYPES[value]

    def _epsilon(self) -> float:
        text = self._sections[self._name("MODEL")].get("layernorm_eps", "1e-5")
        try:
            return float(text)
        except ValueError:
            raise self._refused(f"layernorm_eps={text}; allowed: a number") from None

    def _flag(self, section: str, key: str) -> bool:
        value = self._sections[self._name(section)].get(key, "0")
        if value not in ("0", "1"):
            raise self._refused(f"[{section}] {key}={value}; allowed: 0 or 1")
        return value == "1"

    def _number(self, section: str, key: str, least: int = -(1 << 31)) -> int:
        text = self._text(section, key)
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least:
            limit = f" from {least} on" if least >= 0 else ""
            raise self._refused(f"[{self._name(section)}] {key}={text}; allowed: a whole number{limit}")
        return number

    def _text(self, section: str, key: str) -> str:
        name = section if key == "model_type" else self._name(section)
        try:
            return self._sections[name][key]
        except KeyError:
            raise self._refused(f"[{name}] has no {key}; it needs one") from None

    def _refused(self, why: str) -> ConfigError:
        return ConfigError(f"--flover-config {self._path}: {why}")
