"""Each example runs against a live server and does what it says; the package as it would be installed."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from live_metrics import finished, wait_idle, wait_settled
from live_server import LiveServer, wait_for

from flover_client import Client

PACKAGE = Path(__file__).resolve().parents[2] / "client"
EXAMPLES = PACKAGE / "examples"
PROMPT = "In the beginning"


def run(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    interpreter = ["sh"] if name.endswith(".sh") else [sys.executable]
    command = [*interpreter, str(EXAMPLES / name), *arguments]
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)


@pytest.mark.parametrize("name", ["raw_sync.py", "raw_asyncio.py"])
def test_raw_tritonclient(server: LiveServer, client: Client, name: str) -> None:
    done = run(name, server.grpc_url, PROMPT)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == client.generate(PROMPT, max_tokens=40, temperature=0, stop=["\n\n"]).text + "\n"
    refused = run(name, server.grpc_url, "")
    assert refused.returncode == 1
    assert refused.stderr.startswith("refused: text_input: the prompt is empty")
    assert "flover_client" not in (EXAMPLES / name).read_text()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed: apt-get install curl")
def test_curl(server: LiveServer, client: Client) -> None:
    done = run("generate.sh", server.http_url, PROMPT)
    assert (done.stderr, done.returncode) == ("", 0)
    expected = client.generate(PROMPT, max_tokens=40, temperature=0, stop=["\n\n"])
    whole, _, rest = done.stdout.partition("\n")
    assert json.loads(whole)["text_output"] == expected.text
    events = [json.loads(line.removeprefix("data: ")) for line in rest.splitlines() if line]
    assert "".join(event["text_output"] for event in events) == expected.text
    assert events[-1]["finish_reason"] == expected.finish_reason
    refused = run("generate.sh", server.http_url, "")
    assert refused.returncode == 22
    assert "text_input: the prompt is empty" in json.loads(refused.stdout)["error"]


def test_a_stream_cancelled(server: LiveServer) -> None:
    wait_settled(server)
    before = finished(server, "cancelled")
    done = run("cancel.py", server.grpc_url)
    assert (done.stderr, done.returncode) == ("", 0)
    seen = re.search(r"cancelled after (\d+) tokens", done.stdout)
    assert seen is not None and 10 <= int(seen[1]) < 1000
    wait_for(lambda: finished(server, "cancelled") == before + 1)
    wait_idle(server)


def test_many_users_at_once(server: LiveServer) -> None:
    """More than rows and queue hold: some are refused, and ask again."""
    wait_settled(server)
    before = finished(server, "length")
    done = run("many_users.py", server.grpc_url, "40")
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.startswith("40 users, 1280 tokens in ")
    wait_for(lambda: finished(server, "length") == before + 40)


def test_no_example_is_left_out() -> None:
    text = Path(__file__).read_text()
    assert [path.name for path in EXAMPLES.iterdir() if path.is_file() and path.name not in text] == []


def test_the_readme_is_true(server: LiveServer) -> None:
    """Its Python blocks run, one after another."""
    text = (PACKAGE / "README.md").read_text()
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) > 2
    code = "\n".join(blocks).replace("127.0.0.1:8001", server.grpc_url)
    ast.parse(code)
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    command = [sys.executable, "-W", "error::RuntimeWarning", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout.strip()


def test_it_needs_none_of_the_backend() -> None:
    code = (
        "import flover_client, sys; sys.exit(any(m in sys.modules for m in ('torch', 'flover_backend', 'tokenizers')))"
    )
    environment = os.environ | {"PYTHONPATH": str(PACKAGE)}
    assert subprocess.run([sys.executable, "-c", code], cwd="/", env=environment, check=False).returncode == 0


def build_wheel(folder: Path) -> Path:
    """The package's wheel, made of a copy of its source."""
    source = folder / "client"
    shutil.copytree(PACKAGE, source, ignore=shutil.ignore_patterns("__pycache__", "build", "*.egg-info"))
    command = ["-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run([sys.executable, *command], check=True, timeout=60)
    (wheel,) = folder.glob("flover_client-*.whl")
    return wheel


def test_the_wheel_is_typed(tmp_path: Path) -> None:
    wheel = build_wheel(tmp_path)
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    modules = (path for path in (PACKAGE / "flover_client").iterdir() if path.is_file())
    assert sorted(names) == sorted(f"flover_client/{path.name}" for path in modules)
