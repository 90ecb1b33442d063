"""The sample client of Triton's vLLM backend on a live server: each of its flags, and what its user sees."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
import vllm_sample
from live_metrics import wait_idle
from live_server import LiveServer
from vllm_sample import Outcome

PROMPTS = ["In the beginning\n", "And God said unto Moses,\n", "Wie heißt du? 你好\n", "Blessed are"]


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """The two files' flags; the prompts are written."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(PROMPTS))
    return ["--input-prompts", str(prompts), "--results-file", str(tmp_path / "results.txt")]


def run(server: LiveServer, arguments: list[str], *, sends_exclude: bool = True) -> Outcome:
    return asyncio.run(vllm_sample.run(["-u", server.grpc_url, *arguments], sends_exclude=sends_exclude))


def test_its_example(server: LiveServer, files: list[str], tmp_path: Path) -> None:
    """One response a prompt, the prompt with its line end in front, none lost or swapped, the stream ends by itself."""
    outcome = run(server, ["-m", "flover", *files])
    assert (outcome.errors, outcome.failed) == ([], "")
    assert list(outcome.texts) == ["0", "1", "2", "3"]
    for prompt, texts in zip(PROMPTS, outcome.texts.values(), strict=True):
        assert len(texts) == 1
        assert texts[0].startswith(prompt)
        assert len(texts[0]) > len(prompt)
    results = (tmp_path / "results.txt").read_text()
    assert results.count("\n=========\n") == 4
    assert results.startswith("In the beginning\n")


def test_exclude_inputs_in_outputs(server: LiveServer, files: list[str]) -> None:
    outcome = run(server, ["--model", "flover", "--exclude-inputs-in-outputs", *files])
    assert outcome.errors == []
    assert all(not texts[0].startswith(prompt) for prompt, texts in zip(PROMPTS, outcome.texts.values(), strict=True))


@pytest.mark.parametrize("flag", ["-s", "--streaming-mode"])
def test_streaming(server: LiveServer, files: list[str], flag: str) -> None:
    outcome = run(server, ["-m", "flover", flag, "--exclude-inputs-in-outputs", *files])
    assert (outcome.errors, outcome.failed) == ([], "")
    assert all(len(texts) > 1 for texts in outcome.texts.values())
    assert not any(texts[0].startswith("In the beginning") for texts in outcome.texts.values())


def test_streaming_with_the_prompt_is_refused_as_there(server: LiveServer, files: list[str]) -> None:
    """The vLLM backend refuses an explicit false with `stream` too; each request is told why."""
    outcome = run(server, ["-m", "flover", "-s", *files])
    assert len(outcome.errors) == 4
    assert all(error.startswith("exclude_input_in_output: ") for error in outcome.errors)
    assert set(map(len, outcome.texts.values())) == {0}


@pytest.mark.parametrize("flags", [[], ["-s"]])
def test_its_older_releases(server: LiveServer, files: list[str], flags: list[str]) -> None:
    """They leave exclude_input_in_output out: the prompt is in the text unless it streams."""
    outcome = run(server, ["-m", "flover", *flags, *files], sends_exclude=False)
    assert (outcome.errors, outcome.failed) == ([], "")
    for prompt, texts in zip(PROMPTS, outcome.texts.values(), strict=True):
        assert "".join(texts).startswith(prompt) is (not flags)


def test_iterations_and_offset(server: LiveServer, files: list[str]) -> None:
    """More requests on one stream than there are rows."""
    outcome = run(server, ["-m", "flover", "--iterations", "4", "--offset", "1000", *files])
    assert (outcome.errors, outcome.failed) == ([], "")
    assert list(outcome.texts) == [str(number) for number in range(1000, 1016)]
    for number, texts in enumerate(outcome.texts.values()):
        assert texts[0].startswith(PROMPTS[number % 4])


def test_verbose(server: LiveServer, files: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    run(server, ["-m", "flover", "-v", *files])
    assert "infer_response" in capfd.readouterr().out


@pytest.mark.parametrize("flag", ["-t", "--stream-timeout"])
def test_stream_timeout(server: LiveServer, files: list[str], flag: str) -> None:
    """The stream ends with gRPC's own exception, and what it asked for is freed."""
    outcome = run(server, ["-m", "flover", "--iterations", "5", flag, "0.2", *files])
    assert "StatusCode." in outcome.failed
    assert not all(outcome.texts.values())
    wait_idle(server)
    assert run(server, ["-m", "flover", flag, "60", *files]).failed == ""


@pytest.mark.parametrize("flag", ["-l", "--lora-name"])
def test_lora_is_refused_by_name(server: LiveServer, files: list[str], flag: str) -> None:
    outcome = run(server, ["-m", "flover", flag, "alpaca", *files])
    assert len(outcome.errors) == 4
    assert all("'lora_name' as sampling_parameters: LoRA adapters are not served" in text for text in outcome.errors)


def test_its_default_model_is_not_ours(server: LiveServer, files: list[str]) -> None:
    """Without -m it asks for vllm_model: serve under that name (`flover serve --name vllm_model`), or give -m."""
    outcome = run(server, files)
    assert len(outcome.errors) == 4
    assert "unknown model: 'vllm_model'" in outcome.errors[0]
