"""When a person should look, in Prometheus's words. Each rule says what to do first.

Only what somebody has to act on is `critical`; what will be noticed in the morning is `warning`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from reconciler.spec import Slo

FAILED = "engine_failed|internal_error|oom-unloaded"


@dataclass(frozen=True)
class Alert:
    """lasting: how long the expression must hold. do: the first thing to do about it."""

    name: str
    expression: str
    lasting: str
    severity: Literal["critical", "warning"]
    summary: str
    do: str


def alerts(slo: Slo) -> list[Alert]:
    """For these service levels."""
    budget = 1 - slo.error_budget.target.fraction
    rules = [
        Alert(
            "LmxDown",
            'up{job="lmx"} == 0',
            "2m",
            "critical",
            "{{ $labels.instance }} does not answer",
            "Is the machine up? `lmx launchd status` or `lmx systemd status` there, then its log.",
        ),
        _condition("NotReady", "Ready", 0, "2m", "critical", "its active model does not answer"),
        _condition("Stalled", "Stalled", 1, "5m", "critical", "something cannot be done without a person"),
        _condition("ConfigRejected", "ConfigAccepted", 0, "5m", "warning", "the newest lmx.yaml is refused"),
        _condition("OutOfSync", "Synced", 0, "15m", "warning", "what runs is not what lmx.yaml says"),
        _condition("SourceNotReady", "SourceReady", 0, "15m", "warning", "its source is not followed"),
        _condition("NotVerified", "SourceVerified", 0, "5m", "warning", "a commit has no known signer"),
        _condition("KeysNotReady", "KeysReady", 0, "5m", "warning", "its API keys cannot be read"),
        _condition("Degraded", "Degraded", 1, "15m", "warning", "it serves less than it should"),
        _condition("MemoryPressure", "MemoryPressure", 1, "15m", "warning", "memory is short"),
        _condition("ThermalPressure", "ThermalPressure", 1, "15m", "warning", "it is too hot"),
        _condition("CacheFailed", "CacheReady", 0, "15m", "warning", "its prompt cache on disk is off"),
        _condition("Suspended", "Suspended", 1, "1d", "warning", "it has been suspended for a day"),
        _condition("Overridden", "Overridden", 1, "1d", "warning", "an admin call has held for a day"),
        Alert(
            "LmxEngineRestarts",
            "sum by (instance, model) (increase(lmx_engine_restarts_total[15m])) > 2",
            "0m",
            "warning",
            "{{ $labels.instance }}: engines of {{ $labels.model }} keep failing",
            "`lmx explain {{ $labels.model }}` tells each failure.",
        ),
        Alert(
            "LmxQuarantined",
            'lmx_model_state{state="quarantined"} == 1',
            "0m",
            "critical",
            "{{ $labels.instance }}: {{ $labels.model }} failed too often and is left alone",
            "Edit the model in lmx.yaml, or `lmx reconcile` once the cause is gone.",
        ),
        Alert(
            "LmxErrors",
            f'sum by (instance) (rate(lmx_requests_total{{code=~"{FAILED}"}}[10m]))'
            f" / sum by (instance) (rate(lmx_requests_total[10m])) > {budget:g}",
            "10m",
            "critical",
            "{{ $labels.instance }} fails more requests than its error budget allows",
            "`lmx events` shows what went before.",
        ),
    ]
    if slo.ttft_p95 is not None:
        rules.append(
            Alert(
                "LmxSlowFirstToken",
                "histogram_quantile(0.95, sum by (instance, le) (rate(lmx_ttft_seconds_bucket[10m])))"
                f" > {slo.ttft_p95:g}",
                "10m",
                "warning",
                "{{ $labels.instance }}: p95 of the time to first token is over its goal",
                "`lmx metrics --watch 2s` shows queue, batch and memory.",
            )
        )
    return rules


def _condition(
    name: str, kind: str, value: int, lasting: str, severity: Literal["critical", "warning"], words: str
) -> Alert:
    return Alert(
        f"Lmx{name}",
        f'lmx_condition{{type="{kind}"}} == {value}',
        lasting,
        severity,
        f"{{{{ $labels.instance }}}}: {words}",
        f"`lmx status` says why, beside {kind}.",
    )
