"""The argmax kernel against its reference, bit by bit: it is exact."""

from __future__ import annotations

import pytest
import torch

from flover_backend.kernels.gpu import argmax as subject
from tests.kernels_gpu.compilation import compile_kernel

MODULE = "flover_backend.kernels.gpu.argmax"


def argmax(logits: torch.Tensor, scratch: subject.ArgmaxScratch | None = None) -> torch.Tensor:
    num_rows, vocab_size = logits.shape
    scratch = scratch or subject.ArgmaxScratch.allocate(num_rows, vocab_size, logits.device)
    out = torch.full((num_rows,), -7, dtype=torch.int32, device=logits.device)
    subject.argmax(logits, out, scratch)
    return out


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("num_rows", "vocab_size"), [(1, 1), (1, 5000), (2, 1024), (5, 9001), (70, 300)])
def test_equals_reference(device: torch.device, dtype: torch.dtype, num_rows: int, vocab_size: int) -> None:
    generator = torch.Generator().manual_seed(num_rows * vocab_size)
    logits = torch.randn((num_rows, vocab_size), generator=generator).to(device, dtype)
    expected = torch.full((num_rows,), -7, dtype=torch.int32, device=device)
    subject.argmax_reference(logits, expected)
    assert argmax(logits).tolist() == expected.tolist()
    assert logits.gather(1, expected.long().unsqueeze(1)).equal(logits.amax(1, keepdim=True))


def test_ties_go_to_the_lowest_id(device: torch.device) -> None:
    logits = torch.zeros((3, 9000), device=device) - 1
    logits[0, [8999, 5000, 4096]] = 2
    logits[1, [17, 16, 8000]] = 0.0
    logits[1, 3] = -0.0
    assert argmax(logits).tolist() == [4096, 3, 0]


def test_nan_and_infinities_stay_in_their_row_and_in_the_vocabulary(device: torch.device) -> None:
    logits = torch.randn((5, 5000), generator=torch.Generator().manual_seed(3)).to(device)
    logits[0] = torch.nan
    logits[1] = -torch.inf
    logits[2, 4321] = torch.inf
    logits[3, ::2] = torch.nan
    logits[3, 777] = 50
    assert argmax(logits).tolist() == [0, 0, 4321, 777, int(logits[4].argmax())]


def test_scratch_serves_launch_after_launch_and_rows_with_strides(device: torch.device) -> None:
    scratch = subject.ArgmaxScratch.allocate(4, 6000, device)
    for seed in range(3):
        wide = torch.randn((4, 6000), generator=torch.Generator().manual_seed(seed)).to(device)
        assert argmax(wide, scratch).tolist() == wide.argmax(1).tolist()
        narrow = wide[1:3, :4999]
        assert argmax(narrow, scratch).tolist() == narrow.argmax(1).tolist()
    assert scratch.arrived.tolist() == [0] * 4


def test_what_cannot_be_is_refused(device: torch.device) -> None:
    logits = torch.randn((4, 3000), device=device)
    scratch = subject.ArgmaxScratch.allocate(2, 3000, device)
    with pytest.raises(ValueError, match="too small"):
        argmax(logits, scratch)
    with pytest.raises(ValueError, match="strides"):
        argmax(logits.T, subject.ArgmaxScratch.allocate(3000, 4, device))


@pytest.mark.parametrize("num_rows", [1, 32, 256])
def test_compiles_without_spills(num_rows: int) -> None:
    block, num_warps = subject.blocking(num_rows)
    types = {
        "logits": "*fp16:16", "out": "*i32:16", "values": "*fp32:16", "ids": "*i32:16", "arrived": "*i32:16",
        "vocab_size": "i32:16", "row_stride": "i32:16", "scratch_stride": "i32",
    }  # fmt: skip
    constants = {"BLOCK": block, "PARTS": 128, "OVERLAP": True}
    resources = compile_kernel(MODULE, "_argmax_kernel", types, constants, num_warps=num_warps)
    assert resources.spilled_bytes == 0
    assert resources.registers <= 128
