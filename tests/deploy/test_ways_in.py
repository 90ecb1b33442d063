"""Both ways into a server that is started by hand: (a) the python-based backend folder, where a model has config.pbtxt
and model.json alone; (b) the package in the stub's Python, with the shipped model repository.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from live_server import ROOT, LiveServer
from server_root import ServerRoot, make_server_root
from triton_client import Call, arrays_of, ids_of, post, text_of

from flover_backend.bundled import path_of
from flover_backend.front.tensors import config_pbtxt

PROMPT = "And God said"
GREEDY = {"temperature": 0, "max_tokens": 4, "ignore_eos": True}
ONE_LINE = 'backend: "flover"\n'


@pytest.fixture(scope="module")
def server_root(tmp_path_factory: pytest.TempPathFactory) -> ServerRoot:
    """A server whose stub finds the package, and whose backend folder was copied by hand."""
    made = make_server_root(tmp_path_factory.mktemp("root"), with_package=True)
    shutil.copytree(ROOT / "deploy" / "flover", made.backends / "flover", ignore=shutil.ignore_patterns("__pycache__"))
    return made


def add_backend_model(repository: Path, name: str, config: str, model_json: object) -> None:
    """(a): config.pbtxt and model.json, no model.py."""
    version = repository / name / "1"
    version.mkdir(parents=True)
    (version / "model.json").write_text(json.dumps(model_json))
    (version.parent / "config.pbtxt").write_text(config)


def add_shipped_model(repository: Path) -> None:
    """(b): the folder of this repository as it stands."""
    shipped = ROOT / "model_repository" / "flover"
    shutil.copytree(shipped, repository / "flover", ignore=shutil.ignore_patterns("__pycache__"))


def answers_over_grpc_and_http(server: LiveServer, model: str) -> None:
    answers = Call(server.grpc_url, arrays_of(PROMPT, GREEDY, stream=True), model).rest()
    assert len(ids_of(answers)) == 4
    body = {"text_input": PROMPT, "exclude_input_in_output": True, **GREEDY}
    status, text = post(f"{server.http_url}/v2/models/{model}/generate", body)
    assert status == 200
    assert json.loads(text)["text_output"].encode() == text_of(answers)


def test_with_auto_completion(server_root: ServerRoot, tmp_path: Path) -> None:
    """(a) with one line of config and `model` relative to the version folder, behind two instances; (b) as shipped."""
    repository = tmp_path / "models"
    counted = ONE_LINE + "instance_group [ { kind: KIND_MODEL, count: 2 } ]\n"
    add_backend_model(repository, "backend-folder", counted, {"model": "weights"})
    shutil.copytree(path_of("llama-demo"), repository / "backend-folder" / "1" / "weights")
    add_shipped_model(repository)
    with server_root.serving(tmp_path / "server", repository, ["backend-folder", "flover"]) as server:
        for model in ("backend-folder", "flover"):
            server.wait_ready(model)
            answers_over_grpc_and_http(server, model)
        assert f"{repository / 'backend-folder' / '1' / 'weights'}" in server.log()
        assert server.log().count("started the engine process") == 2  # one a model, whatever its instances


def pasted(log: str) -> str:
    """The config that a failed load printed, cut out of the server's output as a person would do it."""
    found = re.search(r"paste this:\n(name: .*?^output \[.*?^\]\n)", log, re.M | re.S)
    assert found is not None, log[-5000:]
    return found.group(1)


def test_without_auto_completion(server_root: ServerRoot, tmp_path: Path) -> None:
    """Full configs load; a short one is refused with a text that loads as it was printed."""
    repository = tmp_path / "models"
    add_backend_model(repository, "full", config_pbtxt("full", backend="flover"), {})
    short = ONE_LINE + "instance_group [ { kind: KIND_MODEL, count: 2 } ]\n"
    add_backend_model(repository, "short", short, {})
    add_shipped_model(repository)
    models = ["full", "flover", "short"]
    options = ("--disable-auto-complete-config", "--exit-on-error=false")
    with server_root.serving(tmp_path / "server", repository, models, *options) as server:
        for model in ("full", "flover"):
            server.wait_ready(model)
            answers_over_grpc_and_http(server, model)
        text = pasted(server.log())
        assert text == config_pbtxt("short", 2, "flover")
        (repository / "short" / "config.pbtxt").write_text(text)
        assert post(f"{server.http_url}/v2/repository/models/short/load", {})[0] == 200
        answers_over_grpc_and_http(server, "short")
