"""What a wall screen shows of a fleet: one panel a question, those that need a person first."""

from __future__ import annotations

from dataclasses import dataclass, replace

WIDTH, HEIGHT, COLUMNS = 8, 8, 3  # of a panel on Grafana's grid of 24, and how many lie side by side
HERE = 'instance=~"$instance"'


@dataclass(frozen=True)
class Panel:
    """series: (legend, PromQL). unit: Grafana's name of it."""

    title: str
    description: str
    unit: str
    series: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    x: int = 0
    y: int = 0
    width: int = WIDTH
    height: int = HEIGHT


def _rate(name: str, by: str = "instance", only: str = "", over: str = "5m") -> str:
    inside = f"{HERE},{only}" if only else HERE
    return f"sum by ({by}) (rate({name}{{{inside}}}[{over}]))"


def _quantile(share: float, name: str, only: str = "", over: str = "5m") -> str:
    return f"histogram_quantile({share:g}, {_rate(f'{name}_bucket', 'instance, le', only, over)})"


_PANELS = (
    Panel(
        "Conditions",
        "1 where it holds. Ready, Synced and ConfigAccepted should be 1, the others 0.",
        "short",
        (("{{instance}} {{type}}", f"lmx_condition{{{HERE}}}"),),
    ),
    Panel(
        "Generation",
        "The accepted spec, and the newest that was carried out: apart, somebody lags.",
        "short",
        (
            ("{{instance}} accepted", f"lmx_generation{{{HERE}}}"),
            ("{{instance}} carried out", f"lmx_observed_generation{{{HERE}}}"),
        ),
    ),
    Panel(
        "Steps and restarts",
        "The furthest step of the degradation ladder, and engines that had to be replaced.",
        "short",
        (
            ("{{instance}} step", f"lmx_memory_step{{{HERE}}}"),
            (
                "{{instance}} {{model}} {{reason}}",
                f"sum by (instance, model, reason) (increase(lmx_engine_restarts_total{{{HERE}}}[15m]))",
            ),
        ),
    ),
    Panel(
        "Tokens",
        "Generated and read, per second.",
        "short",
        (("{{instance}} {{kind}}", _rate("lmx_tokens_total", "instance, kind")),),
    ),
    Panel(
        "Time to first token",
        "Queue included.",
        "s",
        (
            ("{{instance}} p50", _quantile(0.5, "lmx_ttft_seconds")),
            ("{{instance}} p95", _quantile(0.95, "lmx_ttft_seconds")),
        ),
    ),
    Panel(
        "Time between tokens",
        "Of one answer.",
        "s",
        (
            ("{{instance}} p50", _quantile(0.5, "lmx_inter_token_seconds")),
            ("{{instance}} p95", _quantile(0.95, "lmx_inter_token_seconds")),
        ),
    ),
    Panel(
        "Requests",
        "By how they ended.",
        "reqps",
        (("{{instance}} {{code}}", _rate("lmx_requests_total", "instance, code")),),
    ),
    Panel(
        "Load",
        "Answers being written, and requests that wait for their turn.",
        "short",
        (
            ("{{instance}} running", f"lmx_requests_in_flight{{{HERE}}}"),
            ("{{instance}} waiting", f"lmx_queue_depth{{{HERE}}}"),
        ),
    ),
    Panel(
        "Memory",
        "LMX against its budget, and what other programs use.",
        "bytes",
        (
            ("{{instance}} LMX", f"lmx_memory_used_bytes{{{HERE}}}"),
            ("{{instance}} budget", f"lmx_memory_budget_bytes{{{HERE}}}"),
            ("{{instance}} others", f"lmx_memory_other_bytes{{{HERE}}}"),
        ),
    ),
    Panel(
        "Prompt cache",
        "Part of the prompt tokens that was not computed again.",
        "percentunit",
        (
            (
                "{{instance}}",
                f"{_rate('lmx_prompt_tokens_cached_total')} / "
                + _rate("lmx_tokens_total", only='kind="prompt"'),
            ),
        ),
    ),
    Panel(
        "Swaps",
        "How long engines take from their start to their first request.",
        "s",
        (
            (
                "{{instance}} p95",
                _quantile(0.95, "lmx_swap_duration_seconds", 'stage="total"', "1h"),
            ),
        ),
    ),
    Panel(
        "Degradations",
        "Steps taken in an hour.",
        "short",
        (
            (
                "{{instance}} {{step}}",
                f"sum by (instance, step) (increase(lmx_degradations_total{{{HERE}}}[1h]))",
            ),
        ),
    ),
)


def panels() -> list[Panel]:
    """Each with its place."""
    return [
        replace(panel, x=WIDTH * (number % COLUMNS), y=HEIGHT * (number // COLUMNS))
        for number, panel in enumerate(_PANELS)
    ]
