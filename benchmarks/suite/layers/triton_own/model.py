"""Triton's model: a batch of requests goes to this instance's engine, and returns when its last token is there.

Stands in the model repository, where only the stub's interpreter is known: the standard library, NumPy and Triton's
module. The engine runs in a process of an interpreter with torch; both sides write JSON lines.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Owns an engine process."""

    def initialize(self, args: dict[str, str]) -> None:
        """Return when the engine is loaded. Raises `TritonModelException`."""
        spec = json.loads(Path(args["model_repository"], args["model_version"], "spec.json").read_text())
        self._process = subprocess.Popen(
            [spec["python"], "-m", spec["child"]],
            cwd=spec["root"],
            env=os.environ | {"PYTHONPATH": spec["root"]},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask(spec["keys"])

    def execute(self, requests: list[Any]) -> list[Any]:
        """One answer a request, all at the end of the batch."""
        asked = []
        for request in requests:
            prompt, new = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy().reshape(-1).tolist()
                for name in ("input_ids", "max_tokens")
            )
            asked.append((prompt, new[0]))
        try:
            answers = self._ask(asked)
        except pb_utils.TritonModelException as error:
            failed = pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error)))
            return [failed for _ in requests]
        return [
            pb_utils.InferenceResponse([pb_utils.Tensor("output_ids", np.array([ids], dtype=np.int32))])
            for ids in answers
        ]

    def _ask(self, what: Any) -> Any:
        assert self._process.stdin is not None and self._process.stdout is not None, "both are pipes"
        try:
            self._process.stdin.write(json.dumps(what) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise pb_utils.TritonModelException("the engine's process has ended; the server's log says why")
        return json.loads(line)

    def finalize(self) -> None:
        """The engine ends with its input."""
        assert self._process.stdin is not None, "a pipe"
        self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
