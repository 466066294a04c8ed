"""GET /metrics: gauges from what the loop last saw, counters from the tally. A scrape measures nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

import appliance
from appliance import metric_table
from appliance import status as documents
from appliance.access.desk import Access
from appliance.breakers import Breakers
from appliance.supervisor.router import Router
from appliance.tally import Histogram, Tally
from reconciler.loop import Loop

BREAKER = {"closed": 0, "half_open": 1, "open": 2}
LETTERS = 1000  # of an Accept header that are looked at

Rows = Iterable[tuple[tuple[str, ...], float]]  # values of the labels, value
Histograms = Iterable[tuple[tuple[str, ...], Histogram]]


class Metrics(Collector):
    """One registry of its own: nothing global, so several appliances in one process do not mix."""

    def __init__(
        self, loop: Callable[[], Loop], router: Router, breakers: Breakers, tally: Tally, access: Access
    ) -> None:
        self._loop, self._router, self._breakers, self._tally = loop, router, breakers, tally
        self._access = access
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """(body, content type) in the form that this Accept header asks for."""
        encoder, content_type = choose_encoder(accept[:LETTERS])
        return encoder(self._registry), content_type

    def collect(self) -> Iterator[Metric]:
        loop = self._loop()
        self._tally.forget(loop.force.spec.models, loop.force.spec.skills)
        values, histograms = dict(self._values(loop)), dict(self._histograms())
        for metric in metric_table.METRICS:
            labels = [name for name, _ in metric.labels]
            match metric.kind:
                case "info":
                    yield InfoMetricFamily(
                        metric.name.removesuffix("_info"), metric.help, {"version": appliance.__version__}
                    )
                case "gauge":
                    gauge = GaugeMetricFamily(metric.name, metric.help, labels=labels)
                    for row, value in values[metric.name]:
                        gauge.add_metric(row, value)
                    yield gauge
                case "counter":
                    counter = CounterMetricFamily(metric.name, metric.help, labels=labels)
                    for row, value in values[metric.name]:
                        counter.add_metric(row, value)
                    yield counter
                case "histogram":
                    family = HistogramMetricFamily(metric.name, metric.help, labels=labels)
                    for row, histogram in histograms[metric.name]:
                        family.add_metric(row, histogram.buckets(), histogram.sum)
                    yield family

    def _values(self, loop: Loop) -> Iterator[tuple[str, Rows]]:
        tally, counters = self._tally, self._router.books.counters
        yield "lmx_generation", _one(loop.gate.generation)
        yield "lmx_observed_generation", _one(loop.observed_generation)
        yield (
            "lmx_condition",
            [
                ((kind,), float(found.status == "True"))
                for kind, found in loop.conditions.items()
                if found.status != "Unknown"
            ],
        )
        yield from self._source(loop)
        yield "lmx_reconcile_total", _by_one(tally.reconciles)
        yield "lmx_swap_total", _by_one(tally.swaps)
        yield "lmx_rollback_total", _one(tally.swaps["rolled_back"])
        yield "lmx_degradations_total", _by_one(tally.degradations)
        yield "lmx_tool_parse_failures_total", _by_one(tally.tool_failures)
        yield "lmx_engine_restarts_total", list(tally.restarts.items())
        yield "lmx_requests_total", list(tally.requests.items())
        keys = self._access.allowances
        yield (
            "lmx_key_requests_total",
            [
                ((name, outcome), keys[name].counted[counted])
                for name in keys
                for outcome, counted in (("begun", "requests"), ("refused", "refused"))
            ],
        )
        yield "lmx_key_tokens_total", [((name,), keys[name].counted["tokens"]) for name in keys]
        yield "lmx_requests_in_flight", _one(self._router.in_flight)
        yield "lmx_queue_depth", _one(self._router.queued)
        yield (
            "lmx_tokens_total",
            [(("prompt",), counters.prompt_tokens), (("completion",), self._router.tokens_out)],
        )
        yield (
            "lmx_breaker_state",
            [((name,), BREAKER[view.state]) for name, view in self._breakers.views().items()],
        )
        yield "lmx_skill_calls_total", list(tally.skills.items())
        yield from self._machine(loop)

    def _source(self, loop: Loop) -> Iterator[tuple[str, Rows]]:
        source = loop.source()
        checked = source.last_checked if source is not None else None
        yield "lmx_source_looks_total", _by_one(dict(source.looks) if source is not None else {})
        yield "lmx_source_last_checked_timestamp_seconds", [] if checked is None else _one(checked)

    def _machine(self, loop: Loop) -> Iterator[tuple[str, Rows]]:
        memory, step = documents.memory(loop, loop.seen), loop.desired.strain.pressure.step
        for name in ("budget", "used", "other"):
            value = memory[f"{name}_bytes"]
            yield f"lmx_memory_{name}_bytes", [] if value is None else _one(value)
        ladder = loop.force.spec.memory.ladder
        yield "lmx_memory_step", _one(ladder.index(step) + 1 if step in ladder else 0)
        used: dict[str, int] = dict.fromkeys(loop.force.spec.models, 0)
        for engine in loop.seen.engines if loop.seen is not None else ():
            if engine.model in used:
                used[engine.model] += engine.memory_bytes
        yield "lmx_memory_engine_bytes", _by_one(used)
        yield from self._cache(loop)
        states = {name: model["state"] for name, model in documents.models(loop).items()}
        yield (
            "lmx_model_state",
            [
                ((name, state), float(state == now))
                for name, now in states.items()
                for state in documents.STATES
            ],
        )

    def _cache(self, loop: Loop) -> Iterator[tuple[str, Rows]]:
        counted = self._tally.cache
        hits = {"memory": counted["memory_hits"], "disk": counted["disk_hits"]}
        misses = {"memory": counted["misses"] + counted["disk_hits"], "disk": counted["misses"]}
        yield "lmx_prompt_cache_hits_total", _by_one(hits)
        yield "lmx_prompt_cache_misses_total", _by_one(misses)
        yield "lmx_prompt_cache_damaged_total", _by_one({"disk": counted["damaged"]})
        yield "lmx_prompt_tokens_cached_total", _one(counted["tokens"])
        memory, disk = 0, dict[str, int]()
        for engine in loop.seen.engines if loop.seen is not None else ():
            memory += engine.cache.memory_bytes
            disk[engine.digest] = max(disk.get(engine.digest, 0), engine.cache.disk_bytes)
        yield "lmx_prompt_cache_bytes", _by_one({"memory": memory, "disk": sum(disk.values())})

    def _histograms(self) -> Iterator[tuple[str, Histograms]]:
        tally = self._tally
        yield "lmx_reconcile_duration_seconds", [((), tally.reconcile_s)]
        yield "lmx_swap_duration_seconds", [((stage,), found) for stage, found in tally.stages_s.items()]
        yield "lmx_ttft_seconds", [((), tally.ttft_s)]
        yield "lmx_skill_duration_seconds", [((name,), found) for name, found in tally.skills_s.items()]
        yield "lmx_inter_token_seconds", [((), tally.inter_token_s)]


def _one(value: float) -> Rows:
    return [((), value)]


def _by_one(values: dict[str, int]) -> Rows:
    return [((name,), value) for name, value in values.items()]
