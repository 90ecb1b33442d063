"""The parts that drive an engine with default settings: decode, arrivals, first token, join, prefill.

Each takes a `Session` and yields its lines as they are measured.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

from flover_backend.bench_engine import bars
from flover_backend.bench_engine.drive import Arrival, Record, drive, prompts, together
from flover_backend.bench_engine.figures import Bar, BenchError, Line, Spread, judge, percentile
from flover_backend.bench_engine.session import Session
from flover_backend.bench_engine.workloads import (
    arrival_workloads,
    burst,
    equal_prompts,
    mixed_prompts,
)


def decode(session: Session) -> Iterator[Line]:
    """Time of a decode iteration against S = products + live KV / copy bandwidth."""
    sizes, name = session.sizes, session.shape.name
    for rows in sizes.rows:
        if rows > session.info.max_rows:
            session.tell(f"decode, {rows} rows: the engine has {session.info.max_rows}")
            continue
        drive(session.engine, burst(sizes, rows, session.info.vocab_size, 16))
        record = drive(session.engine, burst(sizes, rows, session.info.vocab_size))
        since = record.all_started()
        gaps = Spread.of(record.gaps(since))
        seconds = (record.end - since) / gaps.count
        products = session.probed.products[rows].median
        live = rows * (sizes.prompt + sizes.new_tokens / 2) * session.kv_bytes_per_token
        bound = products + live / session.probed.bandwidth.median
        vllm = _vllm_ms(name, rows, session)
        line = judge(
            "decode",
            name,
            f"decode iteration, {rows} rows ({seconds * 1e3:.3f} ms, S {bound * 1e3:.3f} ms)",
            seconds / bound,
            bars.DECODE.get(name, {}).get(rows),
            "S",
            rows=rows,
            iteration_ms=seconds * 1e3,
            gaps_ms=gaps.scaled(1e3),
            products_ms=products * 1e3,
            kv_ms=(bound - products) * 1e3,
            bound_ms=bound * 1e3,
            vllm_scaled_ms=vllm,
            first_tokens_ms=since * 1e3,
            run_s=record.end,
        )
        yield line
        if vllm is not None:
            share, limit = seconds * 1e3 / vllm, Bar(1.0, "x vLLM")
            yield judge("decode", name, f"the same against vLLM's {vllm:.2f} ms, scaled", share, limit, rows=rows)


def _vllm_ms(name: str, rows: int, session: Session) -> float | None:
    then, scale = bars.VLLM_DECODE_MS.get(name, {}).get(rows), bars.scale_to_now(rows, session.probed.products_13b)
    return None if then is None or scale is None else then * scale


def arrivals(session: Session) -> Iterator[Line]:
    """Wall time after the last arrival of the three workloads."""
    scale = bars.scale_to_now(32, session.probed.products_13b)
    drive(session.engine, burst(session.sizes, session.sizes.burst, session.info.vocab_size, 16))
    for workload in arrival_workloads(session.sizes, session.info.vocab_size):
        record = drive(session.engine, workload.arrivals)
        vllm = None if scale is None else (bars.VLLM_ARRIVALS_S[workload.name] - workload.last) * scale
        yield judge(
            "arrivals",
            session.shape.name,
            f"{workload.name}: wall after the last arrival",
            record.end - workload.last,
            bars.ARRIVALS[workload.name] if session.shape.name == "13b" else None,
            "s",
            whole_s=record.end,
            last_arrival_s=workload.last,
            last_added_s=max(record.added),
            vllm_after_last_scaled_s=vllm,
            gaps_ms=Spread.of(record.gaps(0.0)).scaled(1e3),
        )


def first_token(session: Session) -> Iterator[Line]:
    """Time until each prompt of a burst has its first token."""
    sizes = session.sizes
    times = Spread.of(_first_token_seconds(session))
    yield judge(
        "first-token",
        session.shape.name,
        f"first token of all, burst of {sizes.burst} prompts of {sizes.prompt}",
        times.median * 1e3,
        bars.FIRST_TOKEN if session.shape.name == "13b" else None,
        "ms",
        ms=times.scaled(1e3),
    )


def _first_token_seconds(session: Session) -> list[float]:
    requests = burst(session.sizes, session.sizes.burst, session.info.vocab_size, 4)
    drive(session.engine, requests)
    return [drive(session.engine, requests).all_started() for _ in range(session.sizes.burst_repeats)]


def join(session: Session) -> Iterator[Line]:
    """Gaps between a running row's tokens while a long prompt joins, against those before; its own first token."""
    sizes, vocab = session.sizes, session.info.vocab_size
    length = min(sizes.join_prompt, session.info.max_model_len - 16)
    drive(session.engine, burst(sizes, sizes.join_rows, vocab, 16))
    calm: list[float] = []
    during: list[float] = []
    own: list[float] = []
    for number in range(sizes.join_repeats):
        running = burst(sizes, sizes.join_rows, vocab, 2 * sizes.join_after + 40)
        joining = Arrival(0.0, prompts(1, length, vocab, number)[0], 8, sizes.join_after)
        record = drive(session.engine, [*running, joining])
        joined, first = record.added[-1], record.times(sizes.join_rows)[0]
        calm += _gaps_ending_in(record, record.all_started_of(sizes.join_rows), joined)[4:]
        during += _gaps_ending_in(record, joined, first)
        own.append(first - joined)
    if not calm or not during:
        raise BenchError("the long prompt did not join beside running rows")
    before, beside = percentile(calm, 0.99), percentile(during, 0.99)
    ours = session.shape.name == "8b"
    what = f"{length}-token prompt joins {sizes.join_rows} rows"
    yield judge(
        "join",
        session.shape.name,
        f"{what}: inter-token p99 {beside * 1e3:.2f} ms over undisturbed {before * 1e3:.2f} ms",
        beside / before,
        bars.JOIN_GAP if ours else None,
        "x",
        undisturbed_ms=Spread.of(calm).scaled(1e3),
        beside_ms=Spread.of(during).scaled(1e3),
    )
    times = Spread.of(own)
    yield judge(
        "join",
        session.shape.name,
        f"{what}: its own first token",
        times.median,
        bars.JOIN_FIRST if ours else None,
        "s",
        s=times.scaled(1.0),
    )


def _gaps_ending_in(record: Record, since: float, until: float) -> list[float]:
    ends = [at for at, _ in record.steps]
    return [b - a for a, b in itertools.pairwise(ends) if since < b <= until]


def moves(session: Session) -> Iterator[Line]:
    """The reorder step in an engine, as it times itself: every second of the rows ends at once."""
    engine, sizes, seconds = session.engine, session.sizes, [0.0, 0.0]

    def look(record: Record) -> None:
        if engine.last_stats is not None:
            seconds[0] += engine.last_stats.reorder_seconds
            seconds[1] += engine.last_stats.iteration.row_moves > 0

    requests = prompts(sizes.burst, sizes.prompt, session.info.vocab_size)
    lengths = [8 if number % 2 == 0 else 16 for number in range(sizes.burst)]
    drive(engine, together(requests, lengths))
    for _ in range(sizes.burst_repeats):
        drive(engine, together(requests, lengths), each_step=look)
    if not seconds[1]:
        raise BenchError("no row moved")
    yield judge(
        "moves",
        session.shape.name,
        f"reorder step `rows` in the engine, half of {sizes.burst} rows end at once",
        1e6 * seconds[0] / seconds[1],
        bars.REORDER_ROWS if session.shape.name == "13b" else None,
        "us",
        reorders=seconds[1],
    )


def prefill(session: Session) -> Iterator[Line]:
    """A packed prefill of prompts of mixed length against the dense rate, and against prompts of one length."""
    sizes, probed, name = session.sizes, session.probed, session.shape.name
    if probed.dense is None or probed.prefill_products is None:
        raise BenchError("the dense rate was not measured")
    mixed, equal = Spread.of(_prefill(session, mixed_prompts)), Spread.of(_prefill(session, equal_prompts))
    rate = probed.prefill_operations / mixed.median
    ours = name == "8b"
    what = f"packed prefill, {sizes.prefill_tokens} tokens in {sizes.prefill_prompts} prompts"
    yield judge(
        "prefill",
        name,
        f"{what} of mixed length ({mixed.median * 1e3:.1f} ms): weight products' rate over a {sizes.dense}^3 product's",
        rate / probed.dense.median,
        bars.PREFILL_RATE if ours else None,
        "of dense",
        mixed_ms=mixed.scaled(1e3),
        tflops=rate / 1e12,
        dense_tflops=probed.dense.median / 1e12,
        model_products_ms=probed.prefill_products.scaled(1e3),
        of_model_products=probed.prefill_products.median / mixed.median,
    )
    yield judge(
        "prefill",
        name,
        f"the same over prompts of one length ({equal.median * 1e3:.1f} ms)",
        mixed.median / equal.median,
        bars.PREFILL_MIXED if ours else None,
        "x equal",
        equal_ms=equal.scaled(1e3),
    )


def _prefill(session: Session, make: Callable[..., list[Arrival]]) -> list[float]:
    """Seconds until every prompt has its token; the first run warms up. Lengths differ from run to run."""
    repeats = range(1 + session.sizes.prefill_repeats)
    records = [drive(session.engine, make(session.sizes, session.info.vocab_size, 10 + n)) for n in repeats]
    return [record.all_started() for record in records[1:]]
