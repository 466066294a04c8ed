"""Every metric that /metrics shows: name, kind, labels and meaning. The reference page is made from this.

`python -m appliance.metric_table` writes docs/reference/metrics.md. Labels have few values that do not grow
with traffic: models come from the spec, routes from a fixed list, never a request's own words.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

FILE = "docs/reference/metrics.md"

Kind = Literal["info", "gauge", "counter", "histogram"]


@dataclass(frozen=True)
class Metric:
    """name: as it is scraped. labels: each with what it may hold. bounds: of a histogram, seconds."""

    name: str
    kind: Kind
    help: str
    labels: tuple[tuple[str, str], ...] = ()
    bounds: tuple[float, ...] = ()


QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
TOKENS = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0, 5.0)
WAITS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
LONG = (0.1, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0)

CALLS = (0.001, 0.005, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)

_SKILL = ("skill", "name of a skill in the spec")
_MODEL = ("model", "key of a model in the spec")

METRICS: tuple[Metric, ...] = (
    Metric("lmx_build_info", "info", "1; the version that runs.", (("version", "of LMX"),)),
    Metric("lmx_generation", "gauge", "Generation of the accepted spec."),
    Metric("lmx_observed_generation", "gauge", "Newest generation that the loop has carried out."),
    Metric(
        "lmx_condition",
        "gauge",
        "1 where the condition is True, 0 where it is False; absent while it is Unknown.",
        (("type", "as in /status"),),
    ),
    Metric(
        "lmx_reconcile_total",
        "counter",
        "Passes of the control loop.",
        (("result", "acted, settled (nothing to do) or failed"),),
    ),
    Metric("lmx_reconcile_duration_seconds", "histogram", "One pass of the control loop.", (), QUICK),
    Metric(
        "lmx_swap_total",
        "counter",
        "Changes of the engine that answers for the active model.",
        (("outcome", "done, or rolled_back where the spec's own form could not run"),),
    ),
    Metric(
        "lmx_swap_duration_seconds",
        "histogram",
        "Time of an engine in a stage on its way in or out; total: from its start to its first request.",
        (("stage", "load, probe, drain, stop or total"),),
        LONG,
    ),
    Metric(
        "lmx_source_looks_total",
        "counter",
        "Looks at the repository that is followed; absent where none is.",
        (("result", "unchanged, taken (another commit runs), refused (the newest may not) or failed"),),
    ),
    Metric(
        "lmx_source_last_checked_timestamp_seconds",
        "gauge",
        "When the repository that is followed last answered; absent where none is, or it never did.",
    ),
    Metric("lmx_rollback_total", "counter", "Times the last good form answered instead of the spec's own."),
    Metric(
        "lmx_model_state",
        "gauge",
        "1 for the state that the model is in, 0 for the others.",
        (_MODEL, ("state", "as in /status")),
    ),
    Metric("lmx_memory_budget_bytes", "gauge", "What LMX may use."),
    Metric("lmx_memory_used_bytes", "gauge", "What LMX uses: its engines and itself."),
    Metric("lmx_memory_engine_bytes", "gauge", "What the engines of a model use.", (_MODEL,)),
    Metric("lmx_memory_other_bytes", "gauge", "What other programs use."),
    Metric(
        "lmx_memory_step",
        "gauge",
        "Furthest step of the degradation ladder in force: its place in memory.ladder, 0 for none.",
    ),
    Metric(
        "lmx_degradations_total",
        "counter",
        "Steps of the degradation ladder that were taken.",
        (("step", "as in memory.ladder"),),
    ),
    Metric(
        "lmx_engine_restarts_total",
        "counter",
        "Engines that ended by a failure and had to be replaced.",
        (_MODEL, ("reason", "exit, crash, hang, load_failed, probe_failed or oom")),
    ),
    Metric(
        "lmx_tool_parse_failures_total",
        "counter",
        "Tool calls that could not be read, and came as text with a warning.",
        (("parser", "models.*.tool_parser, or the one that auto stands for"),),
    ),
    Metric(
        "lmx_requests_total",
        "counter",
        "Requests that ended: rows of generation, and whatever was refused on any route.",
        (("route", "path of the API, or other"), ("code", "ok, cancelled, or the code of the error")),
    ),
    Metric("lmx_requests_in_flight", "gauge", "Rows of generation that engines hold now."),
    Metric("lmx_queue_depth", "gauge", "Requests that wait for a row, a load or a swap."),
    Metric(
        "lmx_key_requests_total",
        "counter",
        "Requests that an API key was let in for, where limits count; refused: over one of them.",
        (("key", "name of an API key in force"), ("outcome", "begun or refused")),
    ),
    Metric(
        "lmx_key_tokens_total",
        "counter",
        "Tokens of prompts and answers that an API key was charged for.",
        (("key", "name of an API key in force"),),
    ),
    Metric("lmx_tokens_total", "counter", "Tokens.", (("kind", "prompt or completion"),)),
    Metric(
        "lmx_prompt_cache_hits_total",
        "counter",
        "Requests whose prompt was found in the prompt cache, at least its beginning.",
        (("tier", "memory or disk: the slowest that gave something"),),
    ),
    Metric(
        "lmx_prompt_cache_misses_total",
        "counter",
        "Requests for whose prompt a tier was asked and had nothing.",
        (("tier", "memory or disk; the disk is asked for what memory has not"),),
    ),
    Metric(
        "lmx_prompt_cache_damaged_total",
        "counter",
        "Files of the prompt cache that were damaged or not ours, and set aside.",
        (("tier", "disk"),),
    ),
    Metric(
        "lmx_prompt_cache_bytes",
        "gauge",
        "What the prompt cache holds, of models that are loaded.",
        (("tier", "memory or disk"),),
    ),
    Metric(
        "lmx_prompt_tokens_cached_total",
        "counter",
        "Prompt tokens that were taken from the prompt cache and not computed again.",
    ),
    Metric("lmx_ttft_seconds", "histogram", "From a request to its first token, queue included.", (), WAITS),
    Metric(
        "lmx_inter_token_seconds",
        "histogram",
        "Time between two tokens of one answer; the gaps of an answer count as equal.",
        (),
        TOKENS,
    ),
    Metric(
        "lmx_skill_calls_total",
        "counter",
        "Calls of skills that LMX ran.",
        (_SKILL, ("outcome", "ok, or what became of it: docs/skills.md has the list")),
    ),
    Metric("lmx_skill_duration_seconds", "histogram", "One call of a skill.", (_SKILL,), CALLS),
    Metric(
        "lmx_breaker_state",
        "gauge",
        "Circuit breakers around what is not a model: 0 closed, 1 half open, 2 open.",
        (("name", "what is guarded: hub, or skill NAME"),),
    ),
)
BY_NAME = {metric.name: metric for metric in METRICS}


def text() -> str:
    """The page, byte for byte."""
    lines = [
        "<!-- Generated by `python -m appliance.metric_table`. Change that module, not this page. -->",
        "# Metrics",
        "",
        "`GET /metrics` in Prometheus's text form, or as OpenMetrics where `Accept` asks for it. Counters",
        "count from the start of the process and outlive engines. A model that the spec drops takes its",
        "series along.",
        "",
        "| name | kind | labels | what it says |",
        "|---|---|---|---|",
    ]
    for metric in METRICS:
        labels = "; ".join(f"`{name}`: {meaning}" for name, meaning in metric.labels)
        lines.append(f"| `{metric.name}` | {metric.kind} | {labels} | {metric.help} |")
    lines += ["", "## Buckets", "", "| name | upper bounds, seconds |", "|---|---|"]
    for metric in METRICS:
        if metric.bounds:
            lines.append(f"| `{metric.name}` | {', '.join(f'{bound:g}' for bound in metric.bounds)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    Path(FILE).write_text(text(), encoding="utf-8")
