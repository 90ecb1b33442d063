"""The command line as a user meets it: help, flags made from the configuration, one-line errors, exit statuses."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from flover_backend import cli
from flover_backend.cli_options import flag_of, model_json
from flover_backend.config import ModelJson
from flover_backend.errors import ConfigError

FLOVER = [sys.executable, "-m", "flover_backend.cli"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*FLOVER, *arguments], capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """The options that `flover serve` would have served with."""
    from flover_backend import serve

    options: list[object] = []
    monkeypatch.setattr(serve, "serve", options.append)
    return options


def test_help_lists_the_commands() -> None:
    answer = run("--help")
    assert answer.returncode == 0
    commands = ["serve", "drain", "doctor", "generate", "top", "import", "demo", "bench"]
    assert re.findall(r"^  ([a-z]+) ", answer.stdout, re.MULTILINE) == commands


def test_every_key_of_model_json_is_a_flag_with_its_help() -> None:
    help_text = run("serve", "--help").stdout
    flags = re.findall(r"^  (--[a-z-]+)", help_text, re.MULTILINE)
    assert [key for key in ModelJson.__struct_fields__ if flag_of(key) not in flags] == []
    assert len(flags) == len(dict.fromkeys(flags))


def test_help_shows_default_and_range_from_the_schema() -> None:
    help_text = " ".join(run("serve", "--help").stdout.split())
    assert "Threads in each front that send responses. [default: 2; 1<=x<=64]" in help_text
    assert "Tokens in one block of the KV buffer. [default: 16]" in help_text


def test_no_flag_means_every_default(served: list[object]) -> None:
    assert CliRunner().invoke(cli.app, ["serve"]).exit_code == 0
    (options,) = served
    assert options.config == ModelJson()  # type: ignore[attr-defined]
    assert options.host == "127.0.0.1"  # type: ignore[attr-defined]


def test_flags_reach_the_configuration(served: list[object], tmp_path: Path) -> None:
    flags = ["--model", str(tmp_path), "--name", "chat", "--instances", "3", "--grpc-port", "0"]
    flags += ["--max-rows", "8", "--reorder", "compact", "--block-size", "32", "--drain-timeout-s", "1.5"]
    answer = CliRunner().invoke(cli.app, ["serve", *flags])
    assert answer.exit_code == 0, answer.output
    (options,) = served
    assert options.config == ModelJson(  # type: ignore[attr-defined]
        model=str(tmp_path.resolve()), max_rows=8, reorder="compact", block_size=32, drain_timeout_s=1.5
    )
    assert (options.name, options.instances, options.grpc_port) == ("chat", 3, 0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (["--max-rows", "0"], "--max-rows"),
        (["--max-rows", "4097"], "--max-rows"),
        (["--block-size", "17"], "--block-size"),
        (["--reorder", "columns"], "--reorder"),
        (["--http-port", "70000"], "--http-port"),
        (["--instances", "0"], "--instances"),
        (["--no-such-flag"], "--no-such-flag"),
    ],
)
def test_a_wrong_flag_is_a_usage_error_that_names_it(flags: list[str], text: str) -> None:
    answer = run("serve", *flags)
    assert answer.returncode == 2
    assert text in answer.stderr
    assert "Traceback" not in answer.stderr


@pytest.mark.parametrize(
    "name", ["", " ", "a/b", "..", ".hidden", "a b", "tab\t", "line\n", "-x", "a?b", "a%2Fb", "é", 'a"b', "a" * 129]
)
def test_a_name_that_triton_could_not_serve_is_a_usage_error(served: list[object], name: str) -> None:
    answer = CliRunner().invoke(cli.app, ["serve", f"--name={name}"])
    assert answer.exit_code == 2
    told = " ".join(answer.output.split())
    assert "Invalid value for --name: " in told and "allowed: A to Z, a to z, digits, _, - and ." in told
    assert served == []


@pytest.mark.parametrize("name", ["flover", "Llama-3.1_8B", "_x", "7", "a" * 128])
def test_names_that_triton_serves(served: list[object], name: str) -> None:
    assert CliRunner().invoke(cli.app, ["serve", f"--name={name}"]).exit_code == 0
    assert [options.name for options in served] == [name]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("place", "reason"), [("no/such/x.log", "No such file or directory"), ("", "Is a directory")])
def test_a_log_file_that_cannot_be_written_is_a_usage_error(tmp_path: Path, place: str, reason: str) -> None:
    answer = run("serve", "--log-file", str(tmp_path / place))
    assert answer.returncode == 2
    assert f"--log-file: '{tmp_path / place}' cannot be written: {reason}. Give a file" in answer.stderr
    assert "Traceback" not in answer.stderr


def test_two_kv_sizes_are_refused_in_the_words_of_the_command_line() -> None:
    answer = run("serve", "--kv-cache-bytes", "1000", "--kv-cache-tokens", "10")
    assert answer.returncode == 1
    assert answer.stderr == "flover: --kv-cache-bytes and --kv-cache-tokens are set together; set at most one of them\n"


def test_a_model_that_is_nothing_is_one_line() -> None:
    answer = run("serve", "--model", "no-such-model")
    assert answer.returncode == 1
    assert answer.stderr.startswith("flover: model 'no-such-model' is no bundled model; allowed: a directory, or ")
    assert answer.stderr.count("\n") == 1


def test_what_only_the_schema_can_check_names_the_flag() -> None:
    with pytest.raises(ConfigError, match="--kv-cache-fraction"):
        model_json({"kv_cache_fraction": 0.0})


def test_generate_without_a_server_is_one_line() -> None:
    answer = run("generate", "hello", "--url", "127.0.0.1:9")
    assert answer.returncode == 1
    assert answer.stderr.startswith("flover: no server answers at 127.0.0.1:9 ")
    assert answer.stderr.rstrip().endswith("Start one with: flover serve")
    assert answer.stderr.count("\n") == 1


def test_generate_chat_needs_the_model() -> None:
    answer = run("generate", "hello", "--chat")
    assert answer.returncode == 2
    assert "--chat needs --model DIR" in answer.stderr


def test_generate_chat_with_a_directory_without_template_is_one_line(tmp_path: Path) -> None:
    answer = run("generate", "hello", "--chat", "--model", str(tmp_path))
    assert answer.returncode == 1
    assert f"flover: {tmp_path} has no chat template" in answer.stderr


def test_import_of_something_else_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no GGUF")
    answer = run("import", str(tmp_path / "notes.txt"), str(tmp_path / "out"))
    assert answer.returncode == 1
    assert answer.stderr.startswith("flover: ")
    assert "Traceback" not in answer.stderr


def test_the_command_starts_without_torch() -> None:
    code = "import sys, flover_backend.cli; print([m for m in ('torch', 'tritonclient', 'grpc') if m in sys.modules])"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"


def test_options_behind_two_dashes_are_tritonserver_s(served: list[object]) -> None:
    CliRunner().invoke(cli.app, ["serve", "--max-rows", "3", "--", "--grpc-use-ssl=true", "--log-info=0"])
    (options,) = served
    assert options.server_arguments == ("--grpc-use-ssl=true", "--log-info=0")  # type: ignore[attr-defined]
    assert options.config.max_rows == 3  # type: ignore[attr-defined]


def test_what_is_no_option_is_refused_by_name(served: list[object]) -> None:
    answer = CliRunner().invoke(cli.app, ["serve", "llama-demo"])
    assert answer.exit_code == 2
    assert "'llama-demo' is no option of tritonserver's: give --OPTION=VALUE behind --" in answer.output
    assert served == []
