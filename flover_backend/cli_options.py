"""One `--kebab-case` flag per key of model.json, made from `ModelJson`'s fields: type, range, help and default.

Knows typer's way of declaring an option and msgspec's way of describing a field, and nothing of what a key means.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, Literal

import msgspec
import typer
from msgspec import inspect as schema

from flover_backend.config import ModelJson
from flover_backend.errors import ConfigError

_PLAIN = {schema.IntType: int, schema.FloatType: float, schema.StrType: str, schema.BoolType: bool}


def with_model_json_flags(command: Callable[..., None]) -> Callable[..., None]:
    """Give `command`, which takes `**keys`, a flag for each key of model.json that its own parameters do not name."""
    own = [p for p in inspect.signature(command, eval_str=True).parameters.values() if p.kind is not p.VAR_KEYWORD]
    named = [parameter.name for parameter in own]
    flags = [_parameter(name, field) for name, field in _fields().items() if name not in named]
    command.__signature__ = inspect.Signature([*own, *flags])  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in [*own, *flags]}
    return command


def model_json(given: dict[str, Any]) -> ModelJson:
    """The configuration that the given flags make. Raises `ConfigError` in the words of the command line."""
    values = {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert(values, ModelJson)
    except (msgspec.ValidationError, ConfigError) as error:
        raise ConfigError(_in_flags(str(error))) from None


def flag_of(key: str) -> str:
    """`--max-rows` for `max_rows`."""
    return "--" + key.replace("_", "-")


def _in_flags(text: str) -> str:
    for key in sorted(ModelJson.__struct_fields__, key=len, reverse=True):
        text = text.replace(f"`$.{key}`", flag_of(key)).replace(f"{key} ", f"{flag_of(key)} ")
    return text


def _fields() -> dict[str, schema.Field]:
    described = schema.type_info(ModelJson)
    assert isinstance(described, schema.StructType)
    return {field.name: field for field in described.fields}


def _parameter(name: str, field: schema.Field) -> inspect.Parameter:
    kind, low, high, description = _unwrap(field.type)
    option = typer.Option(flag_of(name), help=description, min=low, max=high)
    annotation: Any = Annotated[kind if field.default is not None else kind | None, option]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=annotation)


def _unwrap(described: schema.Type) -> tuple[Any, float | None, float | None, str]:
    """(Python type, least, most, description) of a field's type, with None taken out of unions."""
    description = ""
    if isinstance(described, schema.Metadata):
        description = (described.extra_json_schema or {}).get("description", "")
        described = described.type
    if isinstance(described, schema.UnionType):
        (described,) = (kind for kind in described.types if not isinstance(kind, schema.NoneType))
    if isinstance(described, schema.LiteralType):
        return Literal[described.values], None, None, description
    low = getattr(described, "ge", None)
    return _PLAIN[type(described)], low, getattr(described, "le", None), description
