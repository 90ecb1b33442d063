"""Flover's own configuration file, as its release has it: what becomes of each key."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.suite.flover_ini import KEYS, read_flover_config
from flover_backend.errors import ConfigError

SPEC = {
    "model_type": "llama_13b ; gptj_6b, llama_13b",
    "data_type": "fp16       ; fp32, bf16",
    "max_concurrency": "32",
    "per_batch_size": "1     ; number of samples",
    "max_seq_len": "512",
    "fixed_input_len": "8",
    "fixed_prompt_len": "0",
    "beam_width": "1",
    "tensor_para_size": "1",
    "pipeline_para_size": "1",
}
RUNTIME = {
    "top_k": "1 ; k value",
    "top_p": "0.0",
    "temperature": "1.0",
    "repetition_penalty": "1.0",
    "presence_penalty": "0.0",
    "len_penalty": "0.0",
    "beam_search_diversity_rate": "0.0",
    "data_type": "fp16",
    "enable_custom_all_reduce": "0",
    "interval": "1000",
    "use_mem_shuffle": "1",
}
MODEL = {
    "head_num": "40",
    "size_per_head": "128",
    "inter_size": "13824",
    "decoder_layers": "40",
    "rotary_embedding": "128",
    "vocab_size": "32000",
    "start_id": "0",
    "end_id": "1",
    "weight_data_type": "fp16",
    "layernorm_eps": "1e-06",
    "model_dir": "/models/13b/convert",
    "shared_contexts_ratio": "1.0",
}
GPTJ = {
    "head_num": "16",
    "size_per_head": "256",
    "vocab_size": "50400",
    "decoder_layers": "28",
    "rotary_embedding": "64",
    "start_id": "50256",
    "end_id": "50256",
    "inter_size": "16384",
    "num_tasks": "1 ;optional",
    "prompt_learning_type": "0 ;optional --> 0: no prompt",
}


def write(folder: Path, model: str = "llama_13b", **changes: str) -> Path:
    """The release's file with some keys changed; `None`-like "-" takes one out."""
    sections = {
        "model_specification": dict(SPEC),
        "runtime_hyperparameter": dict(RUNTIME),
        "request": {"request_output_len": "504 # determine by the request"},
        model: dict(GPTJ if "gptj" in model else MODEL),
    }
    for key, value in changes.items():
        owner = next((s for s in sections.values() if key in s), sections["model_specification"])
        owner[key] = value
    lines = [f"[{name}]\n" + "".join(f"{k}={v}\n" for k, v in s.items() if v != "-") for name, s in sections.items()]
    path = folder / "config.ini"
    path.write_text(
        "\n".join(lines) + "\n;prompt learning example\n[gptj_6B_task_0] ; task_name_id = 0\ntask_name=task_0\n"
    )
    return path


def test_the_release_file_is_32_requests_a_second_apart_with_random_totals(tmp_path: Path) -> None:
    config = read_flover_config(write(tmp_path))
    assert config.shape.name == "13b" and config.keys == {"max_rows": 32, "max_model_len": 512}
    assert config.ways == ("fused", "none")
    workload = config.workload(0.5, config.shape.config["vocab_size"])
    totals = [len(r.prompt) + r.new_tokens for r in workload.requests]
    assert len(totals) == 32 and min(totals) >= 128 and max(totals) <= 512
    assert workload.requests[1].at == pytest.approx(0.5) and {len(r.prompt) for r in workload.requests} == {8}
    assert workload.facts["paper_gap_ms"] == 1000


def test_its_shape_is_the_suites_own(tmp_path: Path) -> None:
    from flover_backend.bench_engine.shapes import SHAPES

    config = read_flover_config(write(tmp_path)).shape
    assert list(config.products()) == list(SHAPES["13b"].products())
    gptj = read_flover_config(write(tmp_path, "gptj_6B", model_type="gptj_6b", use_mem_shuffle="-"))
    assert list(gptj.shape.products()) == list(SHAPES["gptj-6b"].products())
    assert read_flover_config(write(tmp_path, decoder_layers="2")).shape.name == "13b-5120x13824x2", "no paper's model"
    assert gptj.shape.name == "gptj-6b" and not gptj.random_lengths and gptj.ways == ("fused",)


def test_without_shuffle_all_lengths_are_request_output_len(tmp_path: Path) -> None:
    config = read_flover_config(write(tmp_path, use_mem_shuffle="0", interval="0", per_batch_size="2"))
    workload = config.workload(1.0, 32000)
    assert {(r.at, len(r.prompt), r.new_tokens) for r in workload.requests} == {(0.0, 8, 504)}
    assert len(workload.requests) == 64 and config.keys["max_rows"] == 64


def test_what_is_ignored_is_told_with_its_reason(tmp_path: Path) -> None:
    ignored = read_flover_config(write(tmp_path)).ignored
    assert [line.split("=")[0] for line in ignored] == [
        "top_k",
        "top_p",
        "temperature",
        "repetition_penalty",
        "presence_penalty",
        "len_penalty",
        "beam_search_diversity_rate",
        "enable_custom_all_reduce",
        "weight_data_type",
        "model_dir",
        "shared_contexts_ratio",
    ]
    assert ignored[0].startswith("top_k=1: every way of the suite is greedy")


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"beam_width": "2"}, r"beam_width=2; allowed: 1; more is refused: beam search is not served"),
        ({"tensor_para_size": "2"}, "tensor_para_size=2; allowed: 1; more is refused"),
        ({"pipeline_para_size": "4"}, "pipeline_para_size=4; allowed: 1"),
        ({"fixed_prompt_len": "8"}, "prompt tuning is not served"),
        ({"data_type": "int8"}, "data_type=int8 and fp16; allowed: one of fp16, bf16, fp32 in both sections"),
        ({"max_concurrency": "many"}, "max_concurrency=many; allowed: a whole number from 1 on"),
        ({"max_concurrency": "-"}, r"\[model_specification\] has no max_concurrency"),
        ({"use_mem_shuffle": "yes"}, "use_mem_shuffle=yes; allowed: 0 or 1"),
        ({"rotary_embedding": "64"}, "rotary_embedding=64; allowed: size_per_head, 128"),
        (
            {"size_per_head": "5", "rotary_embedding": "5"},
            r"--flover-config .*\[llama_13b\] as .*head_dim = 5; allowed",
        ),
        ({"use_mem_shuffle": "0", "fixed_input_len": "9"}, "allowed: at most max_seq_len, 512"),
        ({"max_concurency": "3"}, "max_concurency: Flover has no such key; allowed: model_type"),
        ({"model_type": "opt_13b"}, r"has no section \[opt_13b\]"),
    ],
)
def test_what_cannot_be_served_is_refused_in_words(tmp_path: Path, changes: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read_flover_config(write(tmp_path, **changes))


@pytest.mark.parametrize("flag", ["--model", "--workloads", "--requests", "--poisson", "--rates", "--total"])
def test_the_command_says_no_model_and_no_requests_beside_the_file(
    flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    value = "burst" if flag == "--workloads" else "20"
    with pytest.raises(SystemExit) as ended:
        command.main(["--flover-config", str(write(tmp_path)), "--device", "cpu", flag, value])
    assert ended.value.code == 1
    assert f"--flover-config says the model and the requests itself; give no {flag}" in " ".join(
        capsys.readouterr().err.split()
    )


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_flover_config(tmp_path / "nowhere.ini")
    (tmp_path / "odd.ini").write_text("interval=3\n")
    with pytest.raises(ConfigError, match="is no INI file"):
        read_flover_config(tmp_path / "odd.ini")
    assert all(KEYS.values())


def test_the_documents_table_says_what_becomes_of_each_key() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "benchmarks.md").read_text()
    rows = {
        f"| {'the section of `model_type`' if section == 'MODEL' else f'`[{section}]`'} | `{key}` | {what} |"
        for section, keys in KEYS.items()
        for key, what in keys.items()
    }
    assert rows <= set(page.splitlines())
