"""Loading onto a real GPU: the files' own bits, random weights that serve, refusals before memory is taken."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import pytest
import tiny_gptj
import tiny_llama
import torch
from gpu_engine import HAS_GPU
from published_gptj import write as write_published
from safetensors.torch import load_file, save_file

from flover_backend.bench_engine.drive import drive, prompts, together
from flover_backend.bench_engine.recording import record_iterations
from flover_backend.config import ModelJson
from flover_backend.engine.load import load_engine
from flover_backend.engine.stages import StageTimes
from flover_backend.errors import ConfigError
from flover_backend.models.weights import WeightFiles

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HAS_GPU, reason="needs an NVIDIA GPU, and torch sees none")]
CUDA = torch.device("cuda")


@pytest.mark.parametrize("stored", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.float16, torch.bfloat16])
def test_files_arrive_bit_by_bit(tmp_path: Path, stored: torch.dtype, wanted: torch.dtype) -> None:
    shapes = {"big": (3000, 5003), "second": (1024, 5003), "small": (7,)}
    save_file({name: torch.randn(shape).to(stored) for name, shape in shapes.items()}, tmp_path / "model.safetensors")
    told: list[float] = []
    poison = torch.full((9000, 5003), torch.nan, dtype=wanted, device=CUDA)
    del poison
    with torch.inference_mode(), WeightFiles(tmp_path, wanted, CUDA, lambda stage, done: told.append(done)) as files:
        both = files.take_stacked(["big", "second"], [shapes["big"], shapes["second"]])
        small = files.take("small", shapes["small"])
        files.finish()
    expected = load_file(tmp_path / "model.safetensors")
    assert torch.equal(both.cpu(), torch.cat([expected["big"], expected["second"]]).to(wanted))
    assert torch.equal(small.cpu(), expected["small"].to(wanted))
    assert told == sorted(told) and told[-1] == 1


@pytest.mark.parametrize("tiny", [tiny_llama, tiny_gptj], ids=["llama", "gptj"])
def test_random_weights_serve_and_a_profile_shows_kernels(tmp_path: Path, tiny: ModuleType) -> None:
    path = tiny.write(tmp_path, torch_dtype="float16")
    (path / "model.safetensors").unlink()
    times = StageTimes(lambda stage, fraction: None)
    config = ModelJson(model=str(path), device="cuda", load_format="random")
    engine, info = load_engine(config, path, times)
    assert (info.dtype, info.device.partition(":")[0], info.max_rows) == ("float16", "cuda", 256)
    assert {"weights", "graphs"} <= set(times.seconds)
    record = drive(engine, together(prompts(5, 9, info.vocab_size), [3, 8, 1, 20, 7]))
    assert [len(record.times(request)) for request in range(5)] == [3, 8, 1, 20, 7]
    timeline = record_iterations(engine, 4, 8, 6)
    assert [span.lane for span in timeline.host].count("plan") == 6
    assert {"products", "attention"} <= set(timeline.seconds_by_kind()) and 0 <= timeline.idle_share < 1


def test_a_gptj_of_the_published_layout_serves(tmp_path: Path) -> None:
    published = write_published(tiny_gptj.write(tmp_path / "tiny"), tmp_path / "published", torch.float16, 128)
    engine, info = load_engine(ModelJson(device="cuda", max_rows=4), published, StageTimes(lambda *news: None))
    assert (info.dtype, info.vocab_size, info.eos_token_ids) == ("float16", 128, [tiny_gptj.EOS])
    record = drive(engine, together(prompts(3, 9, info.vocab_size), [3, 8, 5]))
    assert [len(record.times(request)) for request in range(3)] == [3, 8, 5]


def test_more_ends_of_text_than_a_row_can_mask_are_refused(tmp_path: Path) -> None:
    path = tiny_llama.write(tmp_path, eos_token_id=list(range(65)))
    with pytest.raises(ConfigError, match="eos_token_id: 65 ids"):
        load_engine(ModelJson(device="cuda"), path, lambda stage, fraction: None)


def test_weights_that_cannot_fit_are_refused_before_any_is_made(tmp_path: Path) -> None:
    path = tiny_llama.write(tmp_path, torch_dtype="float16")
    config = json.loads((path / "config.json").read_text())
    huge = {"hidden_size": 65536, "intermediate_size": 262144, "num_hidden_layers": 100, "num_attention_heads": 512}
    (path / "config.json").write_text(json.dumps(config | huge | {"num_key_value_heads": 512, "head_dim": 128}))
    torch.cuda.reset_peak_memory_stats()
    reserved = torch.cuda.memory_reserved()  # of this process alone: others may use the GPU too
    with pytest.raises(ConfigError, match=r"the weights take \d{5}\.\d\d GiB; .* of the GPU are free"):
        load_engine(ModelJson(device="cuda", load_format="random"), path, lambda stage, fraction: None)
    assert torch.cuda.max_memory_reserved() - reserved < 64 << 20


def test_kv_that_cannot_fit_is_refused_with_the_arithmetic(tmp_path: Path) -> None:
    path = tiny_llama.write(tmp_path, torch_dtype="float16")
    asked = torch.cuda.get_device_properties(CUDA).total_memory  # what is free may grow before the load looks
    with pytest.raises(ConfigError) as caught:
        load_engine(ModelJson(device="cuda", kv_cache_bytes=asked), path, lambda stage, fraction: None)
    for part in (f"kv_cache_bytes {asked}", "weights 0.00 GiB", "activations", "graphs", "free after the weights"):
        assert part in str(caught.value)
