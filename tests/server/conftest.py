"""A model of three lines in place of the real one: what is tested here is the server around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flover_backend import server_files

CONFIG = """backend: "python"
max_batch_size: 0
input [{ name: "text_input" data_type: TYPE_STRING dims: [ 1 ] }]
output [{ name: "text_output" data_type: TYPE_STRING dims: [ 1 ] }]
instance_group [{ kind: KIND_MODEL, count: 1 }]
"""
MODEL = """
import json, os, sys, time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        import flover_backend
        path = os.path.join(args["model_repository"], args["model_version"], "model.json")
        self.config = json.load(open(path))
        if self.config.get("model") == "broken":
            raise pb_utils.TritonModelException("model broken: not a directory")

    def execute(self, requests):
        out = []
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
            if text[0] == b"sleep":
                time.sleep(1)
            out.append(pb_utils.InferenceResponse([pb_utils.Tensor("text_output", text)]))
        return out
"""


@pytest.fixture
def template(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model repository folder that `lay_out_repository` copies instead of the shipped one."""
    folder = tmp_path / "template"
    (folder / "1").mkdir(parents=True)
    (folder / "config.pbtxt").write_text(CONFIG)
    (folder / "1" / "model.py").write_text(MODEL)
    monkeypatch.setattr(server_files, "MODEL_TEMPLATE", folder)
    return folder
