"""Chat templates of the client: they render as the backend's do, from text and files, and the sandbox holds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from flover_backend.chat import render_chat
from flover_client import ChatTemplate, TemplateError

TEMPLATE = """{{- bos_token }}
{%- set ns = namespace(last='') %}
{% for message in messages %}
    {% if message.role == 'hidden' %}
        {% continue %}
    {% endif %}
    {%- if message.role == 'assistant' %}
    {% generation %}{{ message.content | trim }}{{ eos_token }}{% endgeneration %}

    {% endif %}
  [{{ message.role | upper }}] {{ message | tojson }}
    {% set ns.last = message.role %}
{% endfor %}
{{ ns.last }} {{ tools | tojson(indent=2) }} {{ strftime_now('%Y') }}
{% if add_generation_prompt %}>>{% endif %}"""
MESSAGES = [
    {"role": "user", "content": "Wie heißt <du>? 你好 🙂\n\n"},
    {"role": "hidden", "content": "no"},
    {"role": "assistant", "content": " {{ 7 * 7 }} "},
]
SETTINGS = {"chat_template": TEMPLATE, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}


@pytest.mark.parametrize("add_generation_prompt", [True, False])
def test_renders_as_the_backend_does(tmp_path: Path, add_generation_prompt: bool) -> None:
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps(SETTINGS))
    expected = render_chat(tmp_path, MESSAGES, add_generation_prompt, tools=[{"é": 1}])
    assert "<s>" in expected and "heißt <du>" in expected
    from_config = ChatTemplate.from_file(config)
    assert from_config.render(MESSAGES, add_generation_prompt, tools=[{"é": 1}]) == expected
    (tmp_path / "t.jinja").write_text(TEMPLATE)
    from_jinja = ChatTemplate.from_file(tmp_path / "t.jinja", bos_token="<s>", eos_token="</s>", tools=[{"é": 1}])
    assert from_jinja.render(MESSAGES, add_generation_prompt) == expected


def test_a_list_names_the_default(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    (tmp_path / "c.json").write_text(json.dumps({"chat_template": named}))
    assert ChatTemplate.from_file(tmp_path / "c.json").render([]) == "D"


@pytest.mark.parametrize("text", [None, "{", "[]", "{}", '{"chat_template": 7}', '{"chat_template": [{"name": "x"}]}'])
def test_no_template(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "c.json").write_text(text)
    with pytest.raises(TemplateError, match=r"c\.json"):
        ChatTemplate.from_file(tmp_path / "c.json")


def test_a_broken_template_names_the_line() -> None:
    with pytest.raises(TemplateError, match="broken at line 2"):
        ChatTemplate("a\n{% for %}")


@pytest.mark.parametrize(
    "text",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% set ns = namespace(__class__=1) %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ strftime_now.__globals__.x }}",
        "{{ range(10**9) | list }}",
        "{{ raise_exception('no') }}",
    ],
)
def test_the_sandbox_holds(text: str) -> None:
    with pytest.raises(TemplateError, match="the chat template refuses"):
        ChatTemplate(text).render(MESSAGES)


def test_messages_that_are_no_json() -> None:
    with pytest.raises(TemplateError, match="not JSON serializable"):
        ChatTemplate("x").render([{"role": "user", "content": object()}])


def test_a_models_folder(tmp_path: Path) -> None:
    """As the backend reads it: newer models keep the template in a file of its own, the tokens in the other."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(SETTINGS))
    expected = render_chat(tmp_path, MESSAGES)
    assert ChatTemplate.from_file(tmp_path).render(MESSAGES) == expected
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}{{ messages[0].content }}")
    found = ChatTemplate.from_file(tmp_path).render(MESSAGES)
    assert found == render_chat(tmp_path, MESSAGES) == "<s>" + MESSAGES[0]["content"]
    (tmp_path / "tokenizer_config.json").unlink()
    assert ChatTemplate.from_file(tmp_path, bos_token="<b>").render(MESSAGES).startswith("<b>Wie")


def test_a_folder_without_a_template(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match="has no chat_template"):
        ChatTemplate.from_file(tmp_path)
