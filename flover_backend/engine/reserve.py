"""Memory that an engine on a GPU takes beside weights and KV, known before it is taken: the KV buffer is sized first.

A model of the memory, not a measurement: the same configuration gives the same number of blocks. What an iteration
really took is logged at load.
"""

from __future__ import annotations

from dataclasses import dataclass

from flover_backend.engine.gpu.buckets import row_buckets, token_buckets
from flover_backend.models.batch import Model

GRAPH_NODE_BYTES = 8 << 10
"""Of one kernel in a captured graph: its node, parameters and the driver's copy, rounded up generously."""
KERNELS_PER_LAYER = 10
LOGPROB_BYTES = 16
"""Of one logit while logprobs are made of it: as a float, its comparison, and what the largest are found with."""
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
        activations=activation_bytes(model, max_rows, max_prompt_tokens),
        graphs=LIBRARY_BYTES + _num_nodes(model, max_rows, max_prompt_tokens) * GRAPH_NODE_BYTES,
    )


def _num_nodes(model: Model, max_rows: int, max_prompt_tokens: int) -> int:
    """Kernels in all graphs that run the layers: two for each number of rows and of tokens."""
    num_graphs = 2 * len(row_buckets(max_rows)) + 2 * len(token_buckets(max_prompt_tokens + max_rows))
    return num_graphs * model.num_layers * KERNELS_PER_LAYER


def activation_bytes(model: Model, max_rows: int, max_prompt_tokens: int) -> int:
    """Logits of all rows, token counts and processed logits, which stay; and the wider of two moments: a layer over
    all tokens, or logprobs of all rows."""
    per_token = model.config.activation_width * model.dtype.itemsize + 64
    num_logits = max_rows * model.vocab_size
    layer = (max_rows + max_prompt_tokens) * per_token
    return num_logits * (model.dtype.itemsize + 8) + max(layer, num_logits * LOGPROB_BYTES)
