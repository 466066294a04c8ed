"""Fields that contradict each other are named together, with their values."""

from __future__ import annotations

import pytest

from reconciler.loader import SpecError
from reconciler.loader.checks import check
from reconciler.spec import ApiKeys, Context, Memory, Server, Spec, Thermal
from reconciler.units import Share
from tests.reconciler.spec.reading import MINIMAL, load


def test_rules_about_features_that_have_not_landed_hold_already() -> None:
    """Their fields are refused in files, so these rules are asked directly."""
    base = load(MINIMAL).spec

    def messages(**update: object) -> list[str]:
        return [found.message for found in check(base.model_copy(update=update))]

    assert messages(server=Server(admin="key")) == [
        "key needs server.api_keys, which is null; say where the keys come from"
    ]
    assert messages(server=Server(api_keys=ApiKeys())) == [
        "say exactly one of server.api_keys.env and server.api_keys.file"
    ]


def test_limits_that_the_file_does_not_say_follow_those_it_says() -> None:
    """Else `warning: 70%` alone would contradict a default that the file does not mention."""

    def limits(warning: str) -> list[str]:
        memory = load(MINIMAL + f"memory: {{warning: {warning}}}\n").spec.memory
        return [str(share) for share in (memory.recover, memory.warning, memory.critical)]

    assert limits("85%") == ["80%", "85%", "90%"]
    assert limits("84%") == ["79%", "84%", "90%"]
    assert limits("70%") == ["65%", "70%", "90%"]
    assert limits("8%") == ["4%", "8%", "90%"]
    assert limits("92%") == ["80%", "92%", "97%"]
    assert limits("99%") == ["80%", "99%", "100%"]
    assert Memory(warning=Share(0.5), recover=Share(0.3)).recover == Share(0.3)
    assert Memory() == Memory(recover=Share(0.8), critical=Share(0.9))
    assert load(MINIMAL + "thermal: {enter: moderate}\n").spec.thermal.leave == "nominal"
    assert load(MINIMAL + "thermal: {enter: trapping}\n").spec.thermal.leave == "moderate"


def test_a_ladder_that_hardly_anybody_would_choose_is_warned_of() -> None:
    base = load(MINIMAL).spec

    def warned(**update: object) -> list[str]:
        found = list(check(base.model_copy(update=update)))
        assert all(finding.warning for finding in found)
        return [finding.message for finding in found]

    assert warned(memory=Memory(ladder=())) == [
        "nothing gives way under memory pressure; leave it out for all steps"
    ]
    assert warned(memory=Memory(ladder=("unload", "shed"))) == [
        "unload before shed: the active model is ended before models that nobody waits for"
    ]
    assert warned(memory=Memory(ladder=("shed", "unload"))) == []
    assert warned(memory=Memory(ladder=("unload",))) == []
    assert warned(context=Context(ceiling=8192, safe_mode=16384)) == [
        "16384 lowers nothing: context.ceiling is 8192"
    ]
    assert warned(context=Context(ceiling=8192)) == []
    assert warned(thermal=Thermal(enter="trapping", leave="heavy")) == []


def test_service_levels_that_cannot_be_held_or_missed() -> None:
    head = MINIMAL + "slo: "
    with pytest.raises(SpecError, match=r"slo\.error_budget\.target: 100% leaves no budget"):
        load(head + "{error_budget: {target: 100%}}\n")
    (warning,) = load(head + "{cold_start: 20m}\n").warnings
    assert "slo.cold_start: 20m is never exceeded: a load has failed after swap.load_timeout, 15m" in warning
    slo = load(head + "{ttft_p95: 800ms, tokens_per_s_p50: 30, error_budget: {target: 99%}}\n").spec.slo
    assert (slo.ttft_p95, slo.tokens_per_s_p50, slo.error_budget.target) == (0.8, 30.0, Share(0.99))


def test_a_warmup_that_no_request_can_use_is_warned_of() -> None:
    head = (
        "version: 1\nactive: demo\nmodels: {demo: {source: ./demo, warmup: [agent]}}\n"
        "warmup_templates: {agent: {messages: [{role: system, content: You are an agent.}]}}\n"
    )
    assert load(head).warnings == ()
    (alone,) = load(head + "cache: {share: key}\n").warnings
    assert "models.demo.warmup: fills what requests without an API key share" in alone
    (off,) = load(head + "cache: {memory: 0B, disk: 0B}\n").warnings
    assert "models.demo.warmup: does nothing: cache.memory and cache.disk are both off" in off
    assert load(head + "cache: {memory: 0%, disk: 1GiB}\n").warnings == ()


@pytest.mark.parametrize(
    ("cache", "source"),
    [
        ("./cache", "./cache-models"),
        ("/models", "../models"),
        ("~/m", "~/m2"),
        ("./m", "org/m"),
        ("./", "./m"),
    ],
)
def test_a_cache_beside_or_above_models_is_fine(cache: str, source: str) -> None:
    text = f"version: 1\nactive: demo\nmodels: {{demo: {{source: {source}}}}}\ncache: {{path: {cache}}}\n"
    assert load(text).spec.cache.path == cache


def test_no_active_model_is_fine_when_it_is_said() -> None:
    assert load("version: 1\nactive: null\nmodels: {}\n").spec.active is None


def test_warnings_do_not_stop_a_file() -> None:
    loaded = load(
        """\
        version: 1
        active: one
        models:
          one:
            source: org/one
            revision: main
            trust_remote_code: true
        queue: {timeout: 10s}
        """
    )
    branch, code, queue = loaded.warnings
    assert branch.startswith("lmx.yaml:6:15: models.one.revision: 'main' is a branch or tag and can move;")
    assert code.startswith("lmx.yaml:7:24: models.one.trust_remote_code: runs whatever code org/one holds")
    assert queue.startswith(
        "lmx.yaml:8:18: queue.timeout: 10s is shorter than swap.drain_timeout, 1m (the default)"
    )


def test_specs_built_in_python_may_hold_parsed_values() -> None:
    spec = Spec.model_validate({"version": 1, "active": None, "models": {}, "queue": {"timeout": 3.5}})
    assert spec.queue.timeout == 3.5
