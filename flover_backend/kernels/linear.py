"""Matrix products with weights that stay: x @ weight.T + bias, in the layout that suits the device.

On a CPU in float32, oneDNN's prepacked layout reads a weight about twice as fast as a plain matrix at 1 to 32 rows,
and gives a row the same bits whatever rows are computed beside it.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F

# NOTE: oneDNN cuts the sum of a product of a single row in pieces from here on, and so rounds it differently.
_SPLIT_AT = 1024


class Linear:
    """Owns one weight [out_features, in_features] and its bias [out_features] or None, packed for the device."""

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
        assert weight.ndim == 2 and (bias is None or bias.shape == weight.shape[:1])
        self.bias = bias
        self.out_features = len(weight)
        self.num_parameters = weight.numel() + (0 if bias is None else bias.numel())
        self.weight_bytes = self.num_parameters * weight.element_size()
        self.packed = can_pack(weight)
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight) if self.packed else weight

    @property
    def weight(self) -> torch.Tensor:
        """[out_features, in_features]; only where it is not packed."""
        assert not self.packed
        return self._weight

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """[N, in_features] -> [N, out_features], same dtype."""
        if not self.packed:
            return F.linear(x, self._weight, self.bias)
        if len(x) == 1 and x.shape[1] > _SPLIT_AT:
            return self._packed_product(x.expand(2, -1))[:1]
        return self._packed_product(x)

    def _packed_product(self, x: torch.Tensor) -> torch.Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, self.bias, "none", [], "")  # type: ignore[no-any-return]


def can_pack(weight: torch.Tensor) -> bool:
    """Whether this build and device know oneDNN's prepacked products for the weight."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not torch._C._has_mkldnn:
        return False
    return hasattr(torch.ops.mkldnn, "_linear_pointwise") and hasattr(torch.ops.mkldnn, "_reorder_linear_weight")
