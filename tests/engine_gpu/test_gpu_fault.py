"""A real fault on the GPU while requests run: every front is told, the engine ends, the GPU serves on."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_llama
import torch
from engine_host import Host, is_running, wait_until
from recording_front import Recorder, request

from flover_backend.config import ModelJson

pytestmark = pytest.mark.gpu


def test_a_device_side_assert_fails_every_front_and_ends_the_engine(host: Host, tmp_path: Path) -> None:
    path = tiny_llama.write(tmp_path / "tiny", torch_dtype="float16")
    config = ModelJson(device="cuda", max_rows=4, max_model_len=128, kv_cache_tokens=2048, prefill_token_budget=64)
    clients = [host.connect(name, config, "failing_engine:load_faulting", path) for name in ("one", "two")]
    recorders = [Recorder(), Recorder()]
    for client, recorder in zip(clients, recorders, strict=True):
        client.start(recorder)
        client.submit(request(client, [5, 6], max_tokens=100, ignore_eos=True))
    for recorder in recorders:
        recorder.wait(lambda recorder=recorder: recorder.failed, "the failure")
        (text,) = recorder.failed
        assert text.startswith("the engine failed: ") and "device-side assert" in text, text
        assert not recorder.finish and not recorder.ended
    wait_until(lambda: not is_running(clients[0].info.pid), "the engine's end")
    wait_until(lambda: host.files() == [], "no files left")
    assert int(torch.arange(10, device="cuda").sum()) == 45
