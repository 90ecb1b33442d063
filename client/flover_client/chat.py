"""Chat templates: messages to the prompt that a model was trained on. Knows no server.

A template is code that came with the weights, so it runs in Jinja2's immutable sandbox, with the helpers that
Hugging Face's templates expect and nothing more.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
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

from flover_client.errors import TemplateError
from flover_client.types import Message


class ChatTemplate:
    """A compiled template. `variables` are what it may ask for besides the messages, such as `bos_token`."""

    def __init__(self, text: str, **variables: Any) -> None:
        """Raises `TemplateError` when the text is broken."""
        self._variables = variables
        try:
            self._template = _environment().from_string(text)
        except jinja2.TemplateSyntaxError as error:
            raise TemplateError(f"the chat template is broken at line {error.lineno}: {error}") from None

    @classmethod
    def from_file(cls, path: str | Path, **variables: Any) -> ChatTemplate:
        """The template in a file (Jinja text, or tokenizer_config.json with its special tokens) or in a model's folder.

        In a folder chat_template.jinja comes before tokenizer_config.json, whose special tokens count either way.
        Raises `TemplateError` when there is none.
        """
        path = Path(path)
        try:
            text, settings = _read(path)
        except (OSError, ValueError) as error:
            raise TemplateError(f"{path}: {error}") from None
        if text is None:
            text = _template_of(settings, path)
        return cls(text, **_special_tokens(settings) | variables)

    def render(self, messages: Sequence[Message], add_generation_prompt: bool = True, **variables: Any) -> str:
        """The prompt of a conversation. Raises `TemplateError` when the template refuses it."""
        context = {"tools": None, "documents": None} | self._variables | variables
        context |= {"messages": list(messages), "add_generation_prompt": add_generation_prompt}
        try:
            # NOTE: through JSON, so that the template meets no object whose methods the sandbox does not know.
            return self._template.render(json.loads(json.dumps(context)))
        except (jinja2.TemplateError, TypeError, ValueError, OverflowError) as error:
            raise TemplateError(f"messages: the chat template refuses them: {error}") from None


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _GenerationTag]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["namespace"] = _PlainNamespace
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = _strftime_now
    return environment


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


def _read(path: Path) -> tuple[str | None, Any]:
    """(Jinja text, settings): what of both is there."""
    if path.is_dir():
        jinja, config = path / "chat_template.jinja", path / "tokenizer_config.json"
        return _read(jinja)[0] if jinja.is_file() else None, _read(config)[1] if config.is_file() else {}
    text = path.read_text(encoding="utf-8")
    return (None, json.loads(text)) if path.suffix == ".json" else (text, {})


def _template_of(settings: Any, path: Path) -> str:
    """The default one of a tokenizer_config.json's. Raises `TemplateError`."""
    template = settings.get("chat_template") if isinstance(settings, dict) else None
    if isinstance(template, list):
        template = next((entry.get("template") for entry in template if entry.get("name") == "default"), None)
    if not isinstance(template, str):
        raise TemplateError(f"{path} has no chat_template: give a file with the template's text")
    return template


def _special_tokens(settings: Any) -> dict[str, str]:
    """Name -> text; older files write a token as an object with its content."""
    if not isinstance(settings, dict):
        return {}
    tokens = {name: value for name, value in settings.items() if name.endswith("_token")}
    texts = {name: token.get("content") if isinstance(token, dict) else token for name, token in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


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
