"""Behind the language model: upper case."""

from __future__ import annotations

from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: list[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        texts = pb_utils.get_input_tensor_by_name(request, "text").as_numpy()
        loud = np.array([text.upper() for text in texts], np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("loud", loud)])
