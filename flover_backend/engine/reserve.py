"""Memory that an engine on a GPU takes beside weights and KV, known before it is taken: the KV buffer is sized first.

A model of the memory, not a measurement: the same configuration gives the same number of blocks. What an iteration
really took is logged at load.
"""

from __future__ import annotations

from dataclasses import dataclass

from flover_backend.models.batch import Model

GRAPH_NODE_BYTES = 24 << 10
"""Of one kernel in a captured graph: its node, parameters and the driver's copy, rounded up generously."""
KERNELS_PER_LAYER = 10
GRAPH_COUNT = 32
"""Graphs that an engine captures: one for each bucket of rows and of tokens, and the heads."""
LIBRARY_BYTES = 192 << 20
"""Code of the kernels, and the matrix library's workspaces."""


@dataclass(frozen=True, slots=True)
class Reserve:
    """Bytes beside weights and KV."""

    activations: int = 0
    graphs: int = 0

    @property
    def total(self) -> int:
        """Of both."""
        return self.activations + self.graphs


NO_RESERVE = Reserve()


def reserve_for(model: Model, max_rows: int, max_prompt_tokens: int) -> Reserve:
    """For iterations of at most `max_rows` decoding rows and `max_prompt_tokens` prompt tokens; nothing on a CPU."""
    if model.device.type == "cpu":
        return NO_RESERVE
    return Reserve(
        activations=_activation_bytes(model, max_rows, max_prompt_tokens),
        graphs=LIBRARY_BYTES + GRAPH_COUNT * KERNELS_PER_LAYER * model.num_layers * GRAPH_NODE_BYTES,
    )


def _activation_bytes(model: Model, max_rows: int, max_prompt_tokens: int) -> int:
    """The widest moment of a layer, over all tokens, and logits of all rows in the model's dtype and as floats, with
    as much again for their sampling."""
    per_token = model.config.activation_width * model.dtype.itemsize + 64
    logits = max_rows * model.vocab_size * (model.dtype.itemsize + 4 + 8)
    return (max_rows + max_prompt_tokens) * per_token + logits
