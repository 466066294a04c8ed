"""What Prometheus and Grafana are given: their formats, and no name that /metrics does not show."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from appliance.metric_table import BY_NAME
from appliance.monitoring import panels, rules
from reconciler.loader import load_text

# As /status lists them.
TYPES = {"Ready", "Synced", "ConfigAccepted", "Reconciling", "Stalled", "Degraded", "MemoryPressure"}
TYPES |= {"ThermalPressure", "CacheReady", "Suspended", "Overridden", "SourceReady", "SourceVerified"}
TYPES |= {"KeysReady"}
LMX = [sys.executable, "-m", "appliance.cli"]
TEXT = """
version: 1
active: null
models: {}
slo: {ttft_p95: 750ms, error_budget: {target: 99.5%}}
server: {port: 4321}
"""
SPEC = load_text(TEXT.encode(), path=Path("lmx.yaml"), env={}).spec
EXPRESSIONS = [alert.expression for alert in rules.alerts(SPEC.slo)] + [
    expression for panel in panels.panels() for _, expression in panel.series
]
_SERIES = re.compile(r"(lmx_[a-z_]+)(?:\{([^}]*)\})?")
_WORDS = re.compile(r'(\w+)(=~|=)"([^"]*)"')


def metric(name: str) -> str:
    """The metric that a series is of: histograms have three."""
    for suffix in ("_bucket", "_sum", "_count"):
        if name.endswith(suffix) and name not in BY_NAME:
            found = name.removesuffix(suffix)
            assert BY_NAME[found].kind == "histogram"
            return found
    return name


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_series_and_label_is_one_that_lmx_has(expression: str) -> None:
    series = _SERIES.findall(expression)
    assert series or expression == 'up{job="lmx"} == 0'
    known = {"instance", "le"}
    for name, selectors in series:
        labels = {label for label, _ in BY_NAME[metric(name)].labels} | {"instance"}
        known |= labels
        for label, _, value in _WORDS.findall(selectors):
            assert label in labels, f"{name} has no {label}"
            if (name, label) == ("lmx_condition", "type"):
                assert value in TYPES
    for group in re.findall(r"by \(([^)]*)\)", expression):
        assert set(group.split(", ")) <= known
    for opening, closing in ("()", "{}", "[]"):
        assert expression.count(opening) == expression.count(closing)


def test_rates_are_of_counters_and_quantiles_of_histograms() -> None:
    for expression in EXPRESSIONS:
        for name in re.findall(r"(?:rate|increase)\((lmx_[a-z_]+)", expression):
            assert BY_NAME[metric(name)].kind in ("counter", "histogram"), expression


def test_every_condition_that_can_be_wrong_has_a_rule() -> None:
    watched = set(re.findall(r'type="(\w+)"', " ".join(EXPRESSIONS[: len(rules.alerts(SPEC.slo))])))
    assert TYPES - watched == {"Reconciling"}  # which is ordinary


def test_panels_lie_side_by_side_without_overlap() -> None:
    places = {(panel.x, panel.y) for panel in panels.panels()}
    assert len(places) == len(panels.panels())
    assert all(panel.x + panel.width <= 24 for panel in panels.panels())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "lmx.yaml").write_text(TEXT, encoding="utf-8")
    return tmp_path


def printed(folder: Path, *words: str) -> str:
    done = subprocess.run(
        [*LMX, "monitoring", *words], cwd=folder, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_alerts_are_yaml_with_the_service_levels_of_the_file(folder: Path) -> None:
    (group,) = yaml.safe_load(printed(folder, "alerts"))["groups"]
    found = {rule["alert"]: rule for rule in group["rules"]}
    assert found["LmxSlowFirstToken"]["expr"].endswith("> 0.75")
    assert found["LmxErrors"]["expr"].endswith("> 0.005")
    assert found["LmxNotReady"]["expr"] == 'lmx_condition{type="Ready"} == 0'
    assert all(re.fullmatch(r"\d+[mhd]", rule["for"]) for rule in found.values())


def test_the_scrape_job_is_yaml_of_the_machines_given(folder: Path) -> None:
    (job,) = yaml.safe_load(printed(folder, "scrape"))
    assert job["static_configs"] == [{"targets": ["localhost:4321"]}]
    assert "authorization" not in job
    words = ("scrape", "--target", "studio-01:1234", "--target", "[::1]:99", "--key-file", "/etc/lmx key")
    (job,) = yaml.safe_load(printed(folder, *words))
    assert job["static_configs"] == [{"targets": ["studio-01:1234", "[::1]:99"]}]
    assert job["authorization"] == {"credentials_file": "/etc/lmx key"}


def test_a_target_without_a_port_is_refused(folder: Path) -> None:
    words = [*LMX, "monitoring", "scrape", "--target", "studio-01"]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert "HOST:PORT" in done.stderr


def test_the_dashboard_is_json_with_every_panel(folder: Path) -> None:
    told = json.loads(printed(folder, "grafana"))
    assert [panel["title"] for panel in told["panels"]] == [panel.title for panel in panels.panels()]
    assert [panel["id"] for panel in told["panels"]] == list(range(1, len(told["panels"]) + 1))
    assert {target["refId"] for target in told["panels"][0]["targets"]} == {"A"}
