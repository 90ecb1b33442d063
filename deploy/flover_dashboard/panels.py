"""What the Grafana dashboard shows: rows of panels, their queries. Data; Grafana's way of writing it is `build`'s."""

from __future__ import annotations

from dataclasses import dataclass

from grafana_foundation_sdk.models import units

CHOSEN = '{job="flover", model=~"$model", instance=~"$instance"}'
"""Label matchers that the dashboard's variables choose."""
ALERTS = 'ALERTS{alertname=~"Flover.*", alertstate="firing"}'
"""When an alert of deploy/prometheus fired: marked in every picture."""


@dataclass(frozen=True)
class Query:
    """`{}` in `text` becomes `CHOSEN`."""

    text: str
    legend: str

    @property
    def expression(self) -> str:
        """As Prometheus gets it, but for Grafana's variables."""
        return self.text.replace("{}", CHOSEN)


@dataclass(frozen=True)
class Panel:
    """One picture; `description` is what its (i) shows."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    is_stat: bool = False


@dataclass(frozen=True)
class Row:
    """Panels beside each other, of equal width."""

    title: str
    panels: tuple[Panel, ...]


def rate(name: str, labels: str = "") -> str:
    """Per second, summed over servers; `labels` are kept."""
    by = f" by ({labels})" if labels else ""
    return f"sum{by} (rate({name}{{}}[$__rate_interval]))"


def mean(name: str) -> str:
    """Mean of a distribution's values."""
    return f"{rate(f'{name}_sum')} / {rate(f'{name}_count')}"


def quantiles(name: str, *shares: float) -> tuple[Query, ...]:
    """Of a distribution, over all servers chosen."""
    return tuple(
        Query(f"histogram_quantile({share}, {rate(f'{name}_bucket', 'le')})", f"p{share * 100:g}") for share in shares
    )


def latency(title: str, description: str, name: str) -> Panel:
    """Three quantiles of a time."""
    return Panel(title, description, units.Seconds, quantiles(name, 0.5, 0.95, 0.99))


ROWS = (
    Row(
        "Now",
        (
            Panel(
                "Models serving",
                "Engines that stand behind a model; 0 while one is gone.",
                units.Short,
                (Query("sum(flover_model_info{})", "models"),),
                is_stat=True,
            ),
            Panel(
                "Tokens per second",
                "Generated tokens delivered.",
                units.Short,
                (Query(rate("flover_decode_tokens_total"), "tokens/s"),),
                is_stat=True,
            ),
            Panel(
                "Running",
                "Requests that have a row.",
                units.Short,
                (Query("sum(flover_requests_running{})", "running"),),
                is_stat=True,
            ),
            Panel(
                "Waiting",
                "Requests that wait for a row.",
                units.Short,
                (Query("sum(flover_requests_waiting{})", "waiting"),),
                is_stat=True,
            ),
            Panel(
                "First token, p95",
                "From a request's arrival, queue included.",
                units.Seconds,
                quantiles("flover_time_to_first_token_seconds", 0.95),
                is_stat=True,
            ),
            Panel(
                "KV used",
                "Share of the KV buffer's blocks that requests hold.",
                units.PercentUnit,
                (
                    Query(
                        "sum(flover_kv_blocks_used{}) / (sum(flover_kv_blocks_used{}) + sum(flover_kv_blocks_free{}))",
                        "used",
                    ),
                ),
                is_stat=True,
            ),
        ),
    ),
    Row(
        "Traffic",
        (
            Panel(
                "Requests finished",
                "Accepted requests that ended, by reason, per second.",
                units.RequestsPerSecond,
                (Query(rate("flover_requests_finished_total", "reason"), "{{reason}}"),),
            ),
            Panel(
                "Requests rejected",
                "Requests that were never accepted, by reason, per second.",
                units.RequestsPerSecond,
                (Query(rate("flover_requests_rejected_total", "reason"), "{{reason}}"),),
            ),
            Panel(
                "Tokens per second",
                "Generated tokens delivered, and prompt tokens computed.",
                units.Short,
                (
                    Query(rate("flover_decode_tokens_total"), "generated"),
                    Query(rate("flover_prefill_tokens_total"), "prefill"),
                ),
            ),
        ),
    ),
    Row(
        "Latency",
        (
            latency(
                "First token",
                "From a request's arrival in its front to its first token.",
                "flover_time_to_first_token_seconds",
            ),
            latency(
                "Between tokens",
                "Between two tokens of a sequence, as the engine hands them out.",
                "flover_inter_token_latency_seconds",
            ),
            latency(
                "In the queue",
                "From a request's arrival to its first row; part of both others.",
                "flover_queue_time_seconds",
            ),
            latency("End to end", "From a request's arrival to its last token.", "flover_e2e_latency_seconds"),
        ),
    ),
    Row(
        "The fused batch",
        (
            Panel(
                "Requests",
                "Those with a row, and those that wait for one. Waiting with rows to spare: the KV buffer is short.",
                units.Short,
                (
                    Query("sum(flover_requests_running{})", "running"),
                    Query("sum(flover_requests_waiting{})", "waiting"),
                ),
            ),
            Panel(
                "Rows per iteration",
                "How many sequences advance in one fused iteration.",
                units.Short,
                (
                    Query(mean("flover_iteration_rows"), "mean"),
                    *quantiles("flover_iteration_rows", 0.95),
                ),
            ),
            Panel(
                "Time of an iteration",
                "Mean. Longer with more rows, and with prompts mixed in.",
                units.Seconds,
                (Query(f"{rate('flover_iteration_seconds_total')} / {rate('flover_iterations_total')}", "mean"),),
            ),
            Panel(
                "Reorder",
                "Rows and blocks that were moved to keep the batch dense, per second.",
                units.Short,
                (
                    Query(rate("flover_reorders_total"), "reorders"),
                    Query(rate("flover_reorder_rows_moved_total"), "rows moved"),
                    Query(rate("flover_reorder_blocks_moved_total"), "blocks moved"),
                ),
            ),
        ),
    ),
    Row(
        "Memory and trouble",
        (
            Panel(
                "KV blocks",
                "Blocks held by requests, the most since the engine started, and all there are.",
                units.Short,
                (
                    Query("sum(flover_kv_blocks_used{})", "used"),
                    Query("sum(flover_kv_blocks_used_max{})", "most used"),
                    Query("sum(flover_kv_blocks_used{}) + sum(flover_kv_blocks_free{})", "all"),
                ),
            ),
            Panel(
                "Preemptions",
                "Sequences thrown out for want of blocks, to be computed again, per second.",
                units.Short,
                (Query(rate("flover_preemptions_total"), "preemptions"),),
            ),
            Panel(
                "Coalesced responses",
                "Responses saved because tokens that waited went out together: fronts are slower than the engine.",
                units.Short,
                (Query(rate("flover_coalesced_responses_total"), "coalesced"),),
            ),
            Panel(
                "Engine trouble",
                "Since the server started: engines that were started again, idle checks that found a leak.",
                units.Short,
                (
                    Query("sum(flover_engine_restarts_total{})", "restarts"),
                    Query("sum(flover_integrity_failures_total{})", "integrity failures"),
                ),
            ),
        ),
    ),
)
