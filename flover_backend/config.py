"""The configuration: `1/model.json`, one typed schema, each key a `--kebab-case` flag of `flover serve` too.

`ModelJson` is what an operator writes: every key optional, unknown keys refused by name. Each field's `Meta`
carries its documentation and its allowed range; the command line and docs/configuration.md are made from it.
Knows no Triton, no torch. What depends on the device or the model is resolved by the engine at load.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta
from msgspec import inspect as schema

from flover_backend.errors import ConfigError

PositiveInt = Annotated[int, Meta(ge=1)]


class ModelJson(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Content of model.json. None: chosen from the device and the model at load."""

    model: Annotated[
        str,
        Meta(
            description="Hugging Face directory (absolute or relative to the version folder), or a bundled model: "
            "`llama-demo`, `gptj-demo`."
        ),
    ] = "llama-demo"
    dtype: Annotated[
        Literal["auto", "float32", "float16", "bfloat16"],
        Meta(description="Weights and KV. auto: float32 on the CPU, the checkpoint's on a GPU."),
    ] = "auto"
    device: Annotated[
        Literal["auto", "cpu", "cuda"], Meta(description="Where the engine computes. auto: a GPU if there is one.")
    ] = "auto"
    load_format: Annotated[
        Literal["auto", "random"],
        Meta(
            description="Where the weights come from. auto: the directory's safetensors; random: made on the device "
            "from a fixed seed in the sizes of config.json, for benchmarks."
        ),
    ] = "auto"
    max_rows: Annotated[
        Annotated[int, Meta(ge=1, le=4096)] | None,
        Meta(description="Most sequences in one iteration. Default: 32 on the CPU, 256 on a GPU."),
    ] = None
    max_model_len: Annotated[
        PositiveInt | None,
        Meta(description="Most tokens of one sequence, prompt included. Default: the model's own limit."),
    ] = None
    kv_cache_bytes: Annotated[
        PositiveInt | None, Meta(description="Size of the KV buffer in bytes. At most one of the three kv_cache keys.")
    ] = None
    kv_cache_tokens: Annotated[PositiveInt | None, Meta(description="Size of the KV buffer in tokens.")] = None
    kv_cache_fraction: Annotated[
        Annotated[float, Meta(gt=0, le=1)] | None,
        Meta(
            description="Share of the GPU memory free beside weights, activations and graphs that the KV buffer takes. "
            "Default: 0.9 on a GPU; on the CPU the buffer is 1 GiB, or what max_rows sequences of max_model_len "
            "fill, whichever is less."
        ),
    ] = None
    block_size: Annotated[Literal[8, 16, 32, 64, 128], Meta(description="Tokens in one block of the KV buffer.")] = 16
    reorder: Annotated[
        Literal["none", "rows", "compact"],
        Meta(
            description="What happens to the holes that finished rows leave. none: computed for nothing; rows: the "
            "last live rows move in; compact: blocks are packed to a prefix of the KV buffer too."
        ),
    ] = "rows"
    prefill_token_budget: Annotated[
        PositiveInt | None,
        Meta(
            description="Most prompt tokens in one iteration; longer prompts are split. Default: so many that a "
            "join costs running rows at most 2.5 iterations; beside none at most 4,096."
        ),
    ] = None
    max_queued_requests: Annotated[PositiveInt, Meta(description="Requests that may wait; more are refused.")] = 1024
    max_queued_tokens: Annotated[PositiveInt, Meta(description="Prompt tokens that may wait; more are refused.")] = (
        1_048_576
    )
    max_tokens_default: Annotated[
        PositiveInt, Meta(description="max_tokens of a request that names none (less when less fits).")
    ] = 16
    max_tokens_limit: Annotated[
        PositiveInt | None, Meta(description="Largest max_tokens a request may ask. Default: max_model_len.")
    ] = None
    max_prompt_bytes: Annotated[
        PositiveInt | None, Meta(description="Largest text_input in bytes. Default: 16 x max_model_len.")
    ] = None
    sender_threads: Annotated[
        Annotated[int, Meta(ge=1, le=64)], Meta(description="Threads in each front that send responses.")
    ] = 2
    drain_timeout_s: Annotated[
        Annotated[float, Meta(ge=0, le=86400)],
        Meta(description="How long a drain lets running requests go on, in seconds."),
    ] = 20.0
    engine_restarts: Annotated[
        Annotated[int, Meta(ge=0, le=1000)],
        Meta(
            description="How often an engine that died or hangs is started again within `engine_restart_window_s`; "
            "after that, or with 0, its requests fail and the model goes out of service."
        ),
    ] = 3
    engine_restart_window_s: Annotated[
        Annotated[float, Meta(gt=0, le=604800)],
        Meta(description="The time in which `engine_restarts` are counted, in seconds."),
    ] = 600.0
    engine_python: Annotated[
        str | None,
        Meta(description="Python of the engine process, where the stub's has no torch. Default: the stub's."),
    ] = None
    header_prefix: Annotated[
        str | None,
        Meta(description="Request parameters with this prefix (forwarded headers) are ignored instead of refused."),
    ] = None
    log_format: Annotated[Literal["text", "json"], Meta(description="Form of the log lines.")] = "text"

    def __post_init__(self) -> None:
        given = [k for k in ("kv_cache_bytes", "kv_cache_tokens", "kv_cache_fraction") if getattr(self, k) is not None]
        if len(given) > 1:
            raise ConfigError(f"{' and '.join(given)} are set together; set at most one of them")


def parse_model_json(text: bytes | str, source: str = "model.json") -> ModelJson:
    """`ModelJson` from JSON text. Raises `ConfigError` naming the key, what was given and what is allowed."""
    try:
        return msgspec.json.decode(text, type=ModelJson)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        known = ", ".join(ModelJson.__struct_fields__)
        raise ConfigError(f"{source}: {error}. Known keys: {known}") from None


def load_model_json(path: Path) -> ModelJson:
    """Read a model.json file; a missing file means all defaults."""
    return parse_model_json(path.read_bytes(), str(path)) if path.exists() else ModelJson()


def to_json(config: ModelJson) -> dict[str, Any]:
    """Plain values of every key, for logs and digests."""
    return msgspec.to_builtins(config)  # type: ignore[no-any-return]


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """One key of model.json, as its documentation shows it."""

    name: str
    allowed: str
    default: Any
    """None: chosen at load, as the description says."""
    description: str


def describe_keys() -> list[KeyInfo]:
    """Every key of model.json in the order of the schema."""
    described = schema.type_info(ModelJson)
    assert isinstance(described, schema.StructType)
    return [_describe(field) for field in described.fields]


def _describe(field: schema.Field) -> KeyInfo:
    kind, description = field.type, ""
    if isinstance(kind, schema.Metadata):
        description = (kind.extra_json_schema or {}).get("description", "")
        kind = kind.type
    if isinstance(kind, schema.UnionType):
        (kind,) = (part for part in kind.types if not isinstance(part, schema.NoneType))
    return KeyInfo(field.name, _allowed(kind), field.default, description)


def _allowed(kind: schema.Type) -> str:
    """In words: an enumeration, or a type with its range."""
    if isinstance(kind, schema.LiteralType):
        return ", ".join(f"`{value}`" for value in kind.values)
    if isinstance(kind, schema.StrType):
        return "a string"
    assert isinstance(kind, schema.IntType | schema.FloatType)
    noun = "an integer" if isinstance(kind, schema.IntType) else "a number"
    bounds = ((">=", kind.ge), (">", kind.gt), ("<=", kind.le), ("<", kind.lt))
    limits = [f"{sign} {bound:,}" for sign, bound in bounds if bound is not None]
    return f"{noun} {' and '.join(limits)}" if limits else noun
