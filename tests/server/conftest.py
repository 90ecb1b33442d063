"""A model of three lines in place of the real one: what is tested here is the server around it."""

from __future__ import annotations

from pathlib import Path

import pytest

from flover_backend import server_files

MODEL = """
import json, os
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def initialize(self, args):
        import flover_backend
        path = os.path.join(args["model_repository"], args["model_version"], "model.json")
        if json.load(open(path)).get("model") == "broken":
            raise pb_utils.TritonModelException("model broken: not a directory")

    def execute(self, requests):
        for request in requests:
            text = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy()
            response = pb_utils.InferenceResponse([pb_utils.Tensor("text_output", text)])
            request.get_response_sender().send(response, pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
"""


@pytest.fixture
def echo_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model.py that `lay_out_repository` copies instead of the shipped one."""
    path = tmp_path / "model.py"
    path.write_text(MODEL)
    monkeypatch.setattr(server_files, "MODEL_PY", path)
    return path
