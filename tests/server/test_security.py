"""docs/security.md's statements about files, paths, sockets and addresses that need no running server."""

from __future__ import annotations

import ast
import inspect
import json
import os
import pickle
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flover_backend.cli import serve
from flover_backend.config import ModelJson
from flover_backend.engine_files import EngineFiles
from flover_backend.errors import ConfigError
from flover_backend.front.model_dir import model_dir_of_repository
from flover_backend.models.load import load_model
from flover_backend.runtime_dir import runtime_directory
from flover_backend.server import ServerOptions, TritonServer

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("flover_backend", "client", "deploy", "model_repository", "scripts", "training", "examples", "benchmarks")
UNSAFE_MODULES = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
UNSAFE_CALLS = ("eval", "exec", "torch.load", "yaml.load", "yaml.unsafe_load", "load_state_dict_from_url")


def sources() -> list[Path]:
    found = [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py"))]
    assert len(found) > 200
    return found


def imported(tree: ast.AST) -> list[str]:
    names = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names.append(node.module or "")
    return names


def test_no_module_imports_what_runs_code_while_it_reads_data() -> None:
    for path in sources():
        tree = ast.parse(path.read_text())
        unsafe = [name for name in imported(tree) if name.split(".")[0] in UNSAFE_MODULES]
        assert not unsafe, f"{path.relative_to(ROOT)} imports {unsafe}"
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called not in UNSAFE_CALLS, f"{path.relative_to(ROOT)}:{node.lineno} calls {called}"
                trusting = [word for word in node.keywords if word.arg in ("trust_remote_code", "allow_pickle")]
                assert not trusting, f"{path.relative_to(ROOT)}:{node.lineno} passes {trusting[0].arg}"


class Bomb:
    def __init__(self, fuse: Path) -> None:
        self._fuse = fuse

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self._fuse),)


def write_config(directory: Path, **keys: object) -> None:
    directory.mkdir()
    config = {"architectures": ["LlamaForCausalLM"], "vocab_size": 8, "hidden_size": 4, "intermediate_size": 4}
    sizes = {"num_hidden_layers": 1, "num_attention_heads": 1, "max_position_embeddings": 8}
    (directory / "config.json").write_text(json.dumps(config | sizes | keys))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.safetensors"])
def test_a_pickle_is_refused_and_never_run(tmp_path: Path, name: str) -> None:
    directory, fuse = tmp_path / "model", tmp_path / "went-off"
    write_config(directory)
    (directory / name).write_bytes(pickle.dumps(Bomb(fuse)))
    with pytest.raises(ConfigError, match=r"pickle file: convert|not a safetensors file"):
        load_model(directory, "auto", "cpu", lambda stage, fraction: None)
    assert not fuse.exists()
    pickle.loads((directory / name).read_bytes())
    assert fuse.exists(), "the bomb works"


def test_code_in_a_model_directory_is_never_run(tmp_path: Path) -> None:
    directory, fuse = tmp_path / "model", tmp_path / "went-off"
    write_config(directory, auto_map={"AutoModelForCausalLM": "modeling_evil.Evil"}, trust_remote_code=True)
    for name in ("modeling_evil.py", "__init__.py", "configuration_evil.py"):
        (directory / name).write_text(f"import os\nos.mkdir({str(fuse)!r})\n")
    save_file({"model.norm.weight": torch.ones(4)}, directory / "model.safetensors")
    with pytest.raises(ConfigError, match=r"tensor model.embed_tokens.weight is missing"):
        load_model(directory, "auto", "cpu", lambda stage, fraction: None)
    assert not fuse.exists()


@pytest.fixture
def version(tmp_path: Path) -> Path:
    """REPOSITORY/MODEL/VERSION, with weights inside the repository and others outside of it."""
    version = tmp_path / "repository" / "flover" / "1"
    for directory in (version / "weights", tmp_path / "repository" / "shared", tmp_path / "elsewhere"):
        directory.mkdir(parents=True)
    (version / "link-inside").symlink_to("../../shared")
    (version / "link-outside").symlink_to(tmp_path / "elsewhere")
    return version


@pytest.mark.parametrize("model", ["weights", "./weights", "../../shared", "link-inside"])
def test_a_relative_model_path_inside_the_repository(version: Path, model: str) -> None:
    assert model_dir_of_repository(model, version) == (version / model).resolve()


@pytest.mark.parametrize("model", ["../../../elsewhere", "link-outside", "../../..", "weights/../../../../elsewhere"])
def test_a_relative_model_path_out_of_the_repository_is_refused(version: Path, model: str) -> None:
    with pytest.raises(ConfigError, match=r"outside of the model repository .* or an absolute path"):
        model_dir_of_repository(model, version)


def test_an_absolute_model_path_and_a_bundled_name_may_lie_anywhere(version: Path, tmp_path: Path) -> None:
    assert model_dir_of_repository(str(tmp_path / "elsewhere"), version) == (tmp_path / "elsewhere").resolve()
    assert model_dir_of_repository("llama-demo", version).name == "llama-demo"


def test_the_engine_s_socket_is_private_to_its_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    old = os.umask(0)
    try:
        directory = runtime_directory()
        with EngineFiles(directory, "stem").listen() as listener:
            assert stat.S_IMODE(directory.stat().st_mode) == 0o700
            assert listener.getsockname()
    finally:
        os.umask(old)
    directory.chmod(0o755)
    with pytest.raises(ConfigError, match="mode 755; allowed is 700"):
        runtime_directory()


def test_loopback_by_default() -> None:
    assert inspect.signature(serve).parameters["host"].default == "127.0.0.1"
    arguments = TritonServer(ServerOptions(config=ModelJson(device="cpu"))).arguments()
    addresses = [argument for argument in arguments if "-address=" in argument]
    assert addresses == [f"--{way}-address=127.0.0.1" for way in ("http", "grpc", "metrics")]


def test_every_test_that_the_document_names_exists() -> None:
    text = (ROOT / "docs" / "security.md").read_text()
    named = [word.strip("`|,. ") for word in text.split() if word.strip("`|,. ").startswith("tests/")]
    assert len(named) > 8
    assert [name for name in named if not (ROOT / name).exists()] == []
