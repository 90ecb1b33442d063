"""Chat templates: messages to the prompt that a model was trained on. Runs in the client; knows no Triton, no torch.

A template is code that came with the weights, so it runs in Jinja2's immutable sandbox, with the helpers that
Hugging Face's templates expect and nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from flover_backend.errors import ConfigError, InvalidRequest

SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def render_chat(
    model_dir: Path,
    messages: Sequence[Mapping[str, Any]],
    add_generation_prompt: bool = True,
    **variables: Any,
) -> str:
    """The prompt text of a conversation, by the chat template of the Hugging Face directory `model_dir`.

    messages: `{"role": ..., "content": ...}` in order. `variables` are what else the template may ask for (tools,
    documents, ...); all of it must be JSON values.
    Raises `ConfigError` if there is no usable template, `InvalidRequest` if it refuses the messages.
    """
    settings = _read_json(model_dir / "tokenizer_config.json")
    template = _compile(_template_text(model_dir, settings), model_dir)
    context = {"tools": None, "documents": None} | _special_tokens(settings) | variables
    context |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
    try:
        # NOTE: through JSON, so that the template meets no object whose methods the sandbox does not know.
        return template.render(json.loads(json.dumps(context)))
    except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
        raise InvalidRequest(f"messages: the chat template of {model_dir} refuses them: {error}") from None


def _template_text(model_dir: Path, settings: Mapping[str, Any]) -> str:
    """chat_template.jinja if there is one, else the default template of tokenizer_config.json."""
    file = model_dir / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = settings.get("chat_template")
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    if not isinstance(template, str):
        raise ConfigError(
            f"{model_dir} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json): "
            "give the model a plain prompt instead"
        )
    return template


def _compile(text: str, model_dir: Path) -> jinja2.Template:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["namespace"] = _PlainNamespace
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    try:
        return environment.from_string(text)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"the chat template of {model_dir} is broken at line {error.lineno}: {error}") from None


class _GenerationTag(Extension):
    """`{% generation %} ... {% endgeneration %}` marks an assistant's words for training; here it is its content."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the nodes between the two tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _PlainNamespace(Namespace):
    """Jinja2's namespace without underscore names, which would reach Python's own attributes past the sandbox."""

    def __init__(self, *args: Any, **attributes: Any) -> None:
        super().__init__()
        for name, value in dict(*args, **attributes).items():
            self[name] = value

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"a namespace has no attribute {name!r} in a chat template")
        super().__setitem__(name, value)


def _special_tokens(settings: Mapping[str, Any]) -> dict[str, str]:
    """Name -> text; older files write a token as an object with its content."""
    found = {name: settings.get(name) for name in SPECIAL_TOKENS}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in found.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: a JSON object is needed, this is a {type(value).__name__}")
    return value


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    # NOTE: jinja2's own tojson escapes HTML characters, which would reach the model.
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now().strftime(form)
