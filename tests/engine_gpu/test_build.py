"""A runner as it is built: nothing is compiled later, and nothing remains of how that was made sure of."""

from __future__ import annotations

import pytest
import tiny_gptj
import tiny_llama
import torch
from gpu_engine import HAS_GPU

from flover_backend.kv.buffer import KVBuffer
from flover_backend.models.load import load_model
from flover_backend.scheduler.config import SchedulerConfig


@pytest.mark.parametrize(("tiny", "max_rows"), [(tiny_llama, 1), (tiny_llama, 3), (tiny_gptj, 3)])
def test_changes_and_moves_ran_before_the_first_plan_and_left_nothing(tmp_path, monkeypatch, tiny, max_rows):
    from flover_backend.engine.gpu import mover, rows
    from flover_backend.engine.gpu.build import build_gpu_runner
    from flover_backend.kernels.gpu.row_changes import DEAD_ROW

    launched = set()

    def watch(module, name):
        launch = getattr(module, name)

        def watched(tables, changes, count):
            if count:
                launched.add(name)
            launch(tables, changes, count)

        monkeypatch.setattr(module, name, watched)

    watch(rows, "apply_changes")
    watch(rows, "move_rows")
    watch(mover, "copy_blocks")
    model = load_model(tiny.write(tmp_path), "float32", "cuda" if HAS_GPU else "cpu", lambda stage, fraction: None)
    kv = KVBuffer(model.num_layers, 4, 8, model.num_kv_heads, model.head_dim, model.dtype, model.device)
    config = SchedulerConfig(max_rows=max_rows, max_model_len=32, block_size=8, num_blocks=4, pipeline_depth=1)
    runner = build_gpu_runner(model, kv, config, 8)
    assert launched == {"apply_changes", "copy_blocks"} | ({"move_rows"} if max_rows > 1 else set())
    assert (runner.state.tables.state.cpu() == torch.tensor(DEAD_ROW, dtype=torch.int32)).all()
    assert not runner.state.block_table.any() and not any(runner.state.params) and len(runner.results) == 0
    assert runner.state.occupants.num_choosy == 0 and sorted(runner.state.occupants._free_slots) == list(
        range(max_rows)
    )
    assert runner.bytes_moved == 0 and runner.take_reorder_seconds() == 0
