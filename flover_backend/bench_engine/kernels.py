"""Kernels alone, with graph replays over inputs larger than the device's cache: decode attention, and the reorder step.

GPU only: importing this needs Triton.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import torch

from flover_backend.bench_engine import bars
from flover_backend.bench_engine.figures import BenchError, Line, Spread, judge
from flover_backend.bench_engine.probes import REPEATS, captured, replay_seconds
from flover_backend.bench_engine.session import free_device
from flover_backend.bench_engine.shapes import SHAPES, Shape
from flover_backend.kernels.gpu.block_copy import LayerPointers, copy_blocks
from flover_backend.kernels.gpu.decode_attention import DecodeAttention
from flover_backend.kernels.gpu.row_changes import ChangeWriter
from flover_backend.kernels.gpu.rows import RowTables, move_rows

MAX_LEN = 4096
BLOCK = 16
ROWS = (32, 256)
MOST_BLOCK_MOVES = 32
"""Of one iteration (`SchedulerConfig.max_block_moves`)."""
_MEMORY_SHARE = 0.8
_LAUNCHES = 20
"""In one graph."""
_CACHE_BYTES = 512 << 20
"""Several times the H200's 60 MB of L2: what a graph reads before it reads anything again."""


def attention(device: torch.device, bandwidth: Spread) -> Iterator[Line]:
    """Decode attention over blocks, lengths U(1, 4096): KV bytes a second over copy bandwidth."""
    _require_gpu(device)
    for name in ("13b", "8b"):
        for rows in ROWS:
            case = AttentionCase(SHAPES[name], rows, device)
            seconds = Spread.of(case.seconds())
            rate = case.kv_bytes / seconds.median
            kind = "MHA" if case.heads == case.kv_heads else f"GQA {case.heads // case.kv_heads}"
            yield judge(
                "attention",
                name,
                f"decode attention, {kind}, {rows} rows, U(1, {MAX_LEN}): {seconds.median * 1e6:.1f} us a layer, "
                f"{rate / 1e12:.2f} TB/s",
                rate / bandwidth.median,
                bars.ATTENTION,
                us=seconds.scaled(1e6),
                kv_bytes=case.kv_bytes,
                rows=rows,
            )
            del case
            free_device(device)


class AttentionCase:
    """One layer's geometry, several layers' buffers; blocks in random order."""

    def __init__(self, shape: Shape, rows: int, device: torch.device, max_len: int = MAX_LEN) -> None:
        config, dtype = shape.config, getattr(torch, shape.config["torch_dtype"])
        self.heads, self.kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        dim = config["hidden_size"] // self.heads
        source = random.Random(rows)
        lengths = [source.randint(1, max_len) for _ in range(rows)]
        used = [-(-length // BLOCK) for length in lengths]
        token_bytes = 2 * self.kv_heads * dim * dtype.itemsize
        self.kv_bytes = sum(lengths) * token_bytes
        num_blocks = sum(used) + 1
        free = torch.cuda.mem_get_info(device)[0] * _MEMORY_SHARE
        most: int = int(free // (num_blocks * BLOCK * token_bytes))
        self.layers: int = max(1, min(4, most, -(-_CACHE_BYTES // self.kv_bytes) + 1))
        size = (num_blocks, BLOCK, self.kv_heads, dim)
        self._kv = [[torch.randn(size, device=device, dtype=dtype) for _ in range(2)] for _ in range(self.layers)]
        order = torch.randperm(num_blocks - 1, device=device, dtype=torch.int32) + 1
        self._table = torch.zeros((rows + 1, max_len // BLOCK + 1), dtype=torch.int32, device=device)
        first = 0
        for row, count in enumerate(used):
            self._table[row, :count] = order[first : first + count]
            first += count
        self._query = torch.randn((rows, self.heads, dim), device=device, dtype=dtype)
        self._out = torch.full((rows, self.heads * dim), torch.nan, device=device, dtype=dtype)
        self._lens = torch.tensor(lengths, dtype=torch.int32, device=device)
        self._rows = torch.arange(rows, dtype=torch.int32, device=device)
        self._scale = dim**-0.5
        self._kernel = DecodeAttention(rows, self.heads, self.kv_heads, dim, BLOCK, max_len // BLOCK + 1, dtype, device)

    def seconds(self) -> list[float]:
        """Of one layer, its share of the work list's launch included as in an iteration of as many layers as here."""
        graph = captured(self._iteration)
        samples = [second / self._launches for second in replay_seconds(graph.replay, REPEATS)]
        if not self._out.isfinite().all():
            raise BenchError("decode attention left outputs unwritten")
        return samples

    @property
    def _launches(self) -> int:
        return self.layers * -(-_LAUNCHES // self.layers)

    def _iteration(self) -> None:
        self._kernel.plan(self._lens, self._rows)
        self._rows.add_(0)  # as run() demands: something between them
        for number in range(self._launches):
            keys, values = self._kv[number % self.layers]
            self._kernel.run(self._query, keys, values, self._table, self._scale, self._out)


def reorder(device: torch.device, bandwidth: Spread) -> Iterator[Line]:
    """The reorder step of LLaMA-13B: half of 32 rows end at once."""
    _require_gpu(device)
    yield _row_moves(device)
    free_device(device)
    yield from _block_copies(device, bandwidth)
    free_device(device)


def _row_moves(device: torch.device) -> Line:
    """Every second row ends: the last rows move into the holes."""
    rows, max_blocks = 32, 2048 // BLOCK + 1
    tables = RowTables.allocate(256, max_blocks, BLOCK, device)
    holes = range(0, rows // 2, 2)
    moves = [(rows - 1 - 2 * number, hole) for number, hole in enumerate(holes)]
    changes = ChangeWriter().pack(moves)
    packed = torch.from_numpy(changes.packed).to(device)
    samples = _repeated(lambda: move_rows(tables, packed, changes.num_moves), 20)
    spread = Spread.of(samples)
    return judge(
        "reorder",
        "13b",
        f"`rows`: {len(moves)} of {rows} rows move, the kernel",
        spread.median * 1e6,
        bars.REORDER_ROWS,
        "us",
        us=spread.scaled(1e6),
    )


def _block_copies(
    device: torch.device, bandwidth: Spread, shape: Shape = SHAPES["13b"], num_blocks: int = 4096, many: int = 512
) -> Iterator[Line]:
    """`compact`'s most blocks of an iteration, and many."""
    config = shape.config
    heads, dim = config["num_key_value_heads"], config["hidden_size"] // config["num_attention_heads"]
    size = (num_blocks, BLOCK, heads, dim)
    layers = [torch.randn(size, device=device, dtype=torch.float16) for _ in range(2 * config["num_hidden_layers"])]
    pointers, block_bytes = LayerPointers(layers), len(layers) * layers[0][0].nbytes
    for count, judged in ((MOST_BLOCK_MOVES, True), (many, False)):
        order = torch.randperm(size[0] - 1, device=device, dtype=torch.int32)[: 2 * count] + 1
        pairs = order.view(-1, 2).contiguous()
        spread = Spread.of(_repeated(lambda pairs=pairs, count=count: copy_blocks(pointers, pairs, count), 10))  # type: ignore[misc]
        rate = 2 * count * block_bytes / spread.median
        yield judge(
            "reorder",
            "13b",
            f"`compact`: {count} blocks of {block_bytes / 2**20:.1f} MiB, {rate / 1e12:.2f} TB/s",
            rate / bandwidth.median,
            bars.COMPACT_BANDWIDTH,
            us=spread.scaled(1e6),
        )
        if judged:
            what = f"`compact`: an iteration's most, {count} blocks"
            yield judge("reorder", "13b", what, spread.median * 1e3, bars.COMPACT, "ms", us=spread.scaled(1e6))


def _repeated(work: Callable[[], object], launches: int) -> list[float]:
    """Seconds of one `work`, from graphs of several."""

    def several() -> None:
        for _ in range(launches):
            work()

    work()
    torch.cuda.synchronize()
    return [second / launches for second in replay_seconds(captured(several).replay, REPEATS)]


def _require_gpu(device: torch.device) -> None:
    if device.type != "cuda":
        raise BenchError("needs an NVIDIA GPU")
