"""The package as a user has it: its wheel alone in a fresh environment, from the ranges that it declares, and typed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from live_server import LiveServer
from test_client_examples import build_wheel

pytestmark = pytest.mark.slow

PROGRAM = '''"""A small program of a user's."""

import asyncio
import sys

from flover_client import AsyncClient, ChatTemplate, Client, Message, Parameters, Response, Tls, Unavailable


def whole(client: Client) -> str:
    parameters: Parameters = {"max_tokens": 5, "temperature": 0, "ignore_eos": True}
    answer: Response = client.generate("In the beginning", **parameters)
    try:
        with client.stream([5, 6, 7], max_tokens=5, ignore_eos=True, logprobs=1) as stream:
            for response in stream:
                first: float = response.logprobs[0][response.token_ids[0]].logprob
                print(response.outputs[0].text, response.finish_reason, first <= 0)
    except Unavailable as error:
        print(error.code)
    return answer.text


async def main(url: str) -> None:
    template = ChatTemplate("{{ messages[0].content }}")
    messages: list[Message] = [{"role": "user", "content": "Who art thou?"}]
    async with AsyncClient(url, timeout_s=30, headers={"x-team": "a"}) as client:
        print((await client.chat(messages, template, max_tokens=3)).num_input_tokens)
        async with client.stream("And God said", max_tokens=5) as stream:
            async for response in stream:
                print(response.text)


tls: Tls | None = None
with Client(sys.argv[1], version="1", tls=tls) as client:
    print(whole(client))
asyncio.run(main(sys.argv[1]))
imported = {name.split(".")[0] for name in sys.modules}
assert not imported & {"torch", "flover_backend", "tokenizers", "transformers"}, imported
'''

WRONG = {
    'client.generate("x", max_token=5)': "max_token",
    'client.generate("x", temperature="hot")': "temperature",
    "client.generate(7)": "generate",
    'client.generate("x").txt': "txt",
    'client.stream("x").text': "text",
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of an environment that has the wheel, and what the wheel asks for in the newest releases."""
    folder = tmp_path_factory.mktemp("installed")
    wheel = build_wheel(folder)
    subprocess.run([sys.executable, "-m", "venv", str(folder / "venv")], check=True, timeout=120)
    found = folder / "venv" / "bin" / "python"
    subprocess.run([str(found), "-m", "pip", "install", "-q", str(wheel)], check=True, timeout=600)
    return found


def run(*command: object, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "MYPYPATH")}
    return subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
        timeout=300,
        check=False,
    )


def test_it_runs_alone(python: Path, server: LiveServer, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run(python, "-W", "error", "-I", "program.py", server.grpc_url, folder=tmp_path)
    assert (done.stderr, done.returncode) == ("", 0)
    assert len(done.stdout.splitlines()) >= 8
    packages = run(python, "-m", "pip", "list", "--format=freeze", folder=tmp_path).stdout
    assert "flover-client==" in packages
    assert not [name for name in ("torch", "flover-backend", "nvidia-pytriton") if f"{name}==" in packages]
    assert run(python, "-m", "pip", "check", folder=tmp_path).returncode == 0


def test_strict_types(python: Path, tmp_path: Path) -> None:
    mypy = (sys.executable, "-m", "mypy", "--strict", "--python-executable", python, "--config-file=")
    (tmp_path / "program.py").write_text(PROGRAM)
    done = run(*mypy, "program.py", folder=tmp_path)
    assert done.returncode == 0, done.stdout
    lines = ["from flover_client import Client", "client = Client()", *WRONG]
    (tmp_path / "wrong.py").write_text("\n".join(lines) + "\n")
    found = run(*mypy, "wrong.py", folder=tmp_path).stdout
    for number, name in enumerate(WRONG.values(), start=3):
        told = [line for line in found.splitlines() if line.startswith(f"wrong.py:{number}: error")]
        assert told and name in told[0], found
