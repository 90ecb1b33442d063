"""Which recorded graphs run a plan's forward pass and sampling, and the recording of all of them at load.

Knows buckets and graphs; nothing of row state's changes, results or the scheduler.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from flover_backend.engine.gpu.buckets import bucket_of, row_buckets, token_buckets
from flover_backend.engine.gpu.graphs import GraphRecorder, Recorded
from flover_backend.engine.gpu.inputs import SampleInputs, TokenInputs
from flover_backend.engine.gpu.iteration import Iteration, Sampled
from flover_backend.engine.gpu.rows import DeviceRows
from flover_backend.scheduler.plan import Plan


class Programs:
    """The iterations of one model: whole graphs for decoding rows, a body and a head where prompts are mixed in."""

    def __init__(self, iteration: Iteration, rows: DeviceRows, max_tokens: int, slots: int) -> None:
        """`max_tokens`: most tokens of an iteration, prompts and decoding rows together; `slots`: plans in flight."""
        self._iteration = iteration
        self._rows = rows
        self._row_buckets = row_buckets(rows.max_rows)
        self._token_buckets = token_buckets(max_tokens)
        self._inputs = TokenInputs(self._token_buckets[-1], rows.max_rows, rows.dead_row, slots, rows.device)
        self._large_inputs = TokenInputs(max_tokens, rows.max_rows, rows.dead_row, slots, rows.device)
        self._samples = SampleInputs(rows.num_rows, rows.dead_row, slots, rows.device)
        self._recorder = GraphRecorder(rows.device)
        self.stream = self._recorder.stream
        self._decodes: dict[tuple[int, bool], Recorded[Sampled]] = {}
        self._bodies: dict[tuple[int, bool], Recorded[None]] = {}
        self._heads: dict[tuple[int, bool], Recorded[Sampled]] = {}

    def record(self, progress: Callable[[float], None]) -> None:
        """Record every graph, the largest first so that the smaller ones fit into its memory; 0 .. 1 as it goes."""
        largest = partial(self._iteration.body, self._large_inputs, self._samples, self._large_inputs.max_tokens, True)
        self._recorder.warm(largest)
        sizes = [(size, greedy) for size in reversed(self._row_buckets) for greedy in (True, False)]
        bodies = [(size, has_decodes) for size in reversed(self._token_buckets) for has_decodes in (True, False)]
        total, done = 2 * len(sizes) + len(bodies), 0
        for num_tokens, has_decodes in bodies:
            body = partial(self._iteration.body, self._inputs, self._samples, num_tokens, has_decodes)
            self._bodies[num_tokens, has_decodes] = self._recorder.record(body)
            done += 1
            progress(done / total)
        for size, greedy in sizes:
            self._decodes[size, greedy] = self._recorder.record(partial(self._iteration.decode, size, greedy))
            head = partial(self._iteration.head, self._samples, size, greedy)
            self._heads[size, greedy] = self._recorder.record(head)
            done += 2
            progress(done / total)

    def decode(self, plan: Plan) -> Sampled:
        """A plan without chunks whose rows 0 .. num_rows-1 all decode or are dead; entry r of the result is row r's."""
        program = self._decodes[bucket_of(self._row_buckets, plan.num_rows), self._is_greedy]
        return program.replay()

    def mixed(self, plan: Plan) -> Sampled | None:
        """Any other plan that computes; entry i of the result is `sampled_rows()[i]`'s. None: nothing is sampled."""
        num_tokens = len(plan.decode_rows) + len(plan.idle_rows) + sum(len(c.token_ids) for c in plan.chunks)
        num_sampled, has_decodes = len(plan.sampled_rows()), bool(plan.decode_rows)
        self._samples.fill(plan)
        if num_tokens <= self._token_buckets[-1]:
            bucket = bucket_of(self._token_buckets, num_tokens)
            self._inputs.fill(plan, bucket)
            self._bodies[bucket, has_decodes].replay()
        else:
            self._large_inputs.fill(plan, num_tokens)
            self._iteration.body(self._large_inputs, self._samples, num_tokens, has_decodes)
        if not num_sampled:
            return None
        program = self._heads[bucket_of(self._row_buckets, num_sampled), self._is_greedy]
        return program.replay()

    @property
    def _is_greedy(self) -> bool:
        return not self._rows.occupants.num_choosy
