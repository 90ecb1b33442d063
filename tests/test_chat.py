"""Rendered prompts equal what transformers renders from the same directory; bad templates and messages are named."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flover_backend.bundled import path_of
from flover_backend.chat import render_chat
from flover_backend.errors import ConfigError, InvalidRequest

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BLOCKS = """{{- bos_token }}
{%- set ns = namespace(last='') %}
{% for message in messages %}
    {% if message.role == 'hidden' %}
        {% continue %}
    {% endif %}
    {%- if message.role == 'assistant' %}
    {% generation %}{{ message.content | trim }}{{ eos_token }}{% endgeneration %}

    {% else %}
  [{{ message.role | upper }}] {{ message.content }}
    {% endif %}
    {% set ns.last = message.role %}
    {% if loop.index >= 4 %}{% break %}{% endif %}
{% endfor %}
last={{ ns.last }} {{ messages[0] | tojson }} {{ {'b': '<é>', 'a': [1, none, true]} | tojson(indent=2) }}
{{ strftime_now('%Y') }}
{% if tools %}{{ tools | tojson }}{% endif %}
{% if add_generation_prompt %}>>{% endif %}"""
CONVERSATIONS = [
    [{"role": "user", "content": "Who made heaven & <earth>?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Wie heißt du? 你好 🙂\n\n"}],
    [
        {"role": "user", "content": "  1 2  "},
        {"role": "assistant", "content": " three "},
        {"role": "hidden", "content": "no"},
        {"role": "user", "content": "{{ 7 * 7 }} {% raw %}"},
        {"role": "user", "content": "never reached in one of the templates"},
    ],
]


def _model_dir(folder: Path, template: object) -> Path:
    shutil.copy(path_of("llama-demo") / "tokenizer.json", folder)
    settings = json.loads((path_of("llama-demo") / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": template}))
    return folder


@pytest.mark.parametrize("add_generation_prompt", [True, False])
@pytest.mark.parametrize("messages", CONVERSATIONS)
@pytest.mark.parametrize("template", [CHATML, BLOCKS], ids=["chatml", "blocks"])
def test_equals_transformers(template: str, messages: list, add_generation_prompt: bool, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = _model_dir(tmp_path, template)
    reference = AutoTokenizer.from_pretrained(folder)
    expected = reference.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=add_generation_prompt, tools=[{"type": "function"}]
    )
    got = render_chat(folder, messages, add_generation_prompt, tools=[{"type": "function"}])
    assert got == expected
    assert messages[0]["content"].strip() in got


def test_jinja_file_goes_first_and_a_list_names_the_default(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D{{ messages|length }}"}]
    folder = _model_dir(tmp_path, named)
    assert render_chat(folder, [{"role": "user", "content": ""}]) == "D1"
    (folder / "chat_template.jinja").write_text("J")
    assert render_chat(folder, []) == "J"


@pytest.mark.parametrize("template", [None, [{"name": "tool_use", "template": "T"}]])
def test_no_template(template: object, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no chat template"):
        render_chat(_model_dir(tmp_path, template), [])


def test_broken_template_names_the_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="broken at line 2"):
        render_chat(_model_dir(tmp_path, "a\n{% for %}"), [])


@pytest.mark.parametrize(
    "template",
    [
        "{{ raise_exception('roles must alternate') }}",
        "{{ messages[0].content + 1 }}",
        "{{ messages[0].nothing.at.all }}",
        "{{ range(10**9) | list }}",
    ],
)
def test_refused_messages(template: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"messages: the chat template of .* refuses them"):
        render_chat(_model_dir(tmp_path, template), [{"role": "user", "content": "x"}])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{{ ('%s' | attr('format')).__globals__.x }}",
        "{% set ns = namespace(__class__=1) %}{{ ns }}",
        "{% set ns = namespace() %}{% set ns.__class__ = 1 %}",
        "{{ strftime_now.__globals__.x }}",
    ],
)
def test_sandbox_holds(template: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        render_chat(_model_dir(tmp_path, template), [{"role": "user", "content": "x"}])


def test_messages_that_are_no_json(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="not JSON serializable"):
        render_chat(_model_dir(tmp_path, CHATML), [{"role": "user", "content": object()}])


def test_needs_no_torch() -> None:
    modules = "flover_backend.chat, flover_backend.bundled, flover_backend.importer.smollm2"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parent.parent, check=False).returncode == 0
