"""What is on the page, from documents as /status gives them."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

import pytest

from appliance.dashboard import charts, wording
from appliance.dashboard.attention import attention
from appliance.dashboard.diff import NOTHING, Pending
from appliance.dashboard.memory import bar
from appliance.dashboard.pace import Pace, Paces
from appliance.dashboard.render import PARTS, page, parts, same
from appliance.dashboard.trend import SECONDS, Sample, Trend
from appliance.dashboard.view import view

NOW = 1_800_000_000.0
GIB = 2**30


def condition(kind: str, status: str, message: str = "", since: float = NOW - 60) -> dict[str, Any]:
    return {
        "type": kind,
        "status": status,
        "reason": "Because",
        "message": message,
        "last_transition": since,
        "observed_generation": 3,
    }


def model(state: str, **more: Any) -> dict[str, Any]:
    return {
        "state": state,
        "reason": "",
        "since": NOW - 30,
        "progress": None,
        "context": {"declared": "auto", "effective": 8192, "why": ""},
        "concurrency": {"declared": 8, "effective": 8, "why": ""},
        "memory": {"forecast_bytes": None, "measured_bytes": 3 * GIB, "cached_bytes": 0},
        "slo": None,
        **more,
    }


GOOD = {"Ready": "True", "Synced": "True", "ConfigAccepted": "True", "Reconciling": "False"}
GOOD |= {"Stalled": "False", "Degraded": "False", "MemoryPressure": "False", "ThermalPressure": "Unknown"}
GOOD |= {"CacheReady": "True", "KeysReady": "True", "Suspended": "False", "Overridden": "False"}
GOOD |= {"SourceReady": "True", "SourceVerified": "Unknown"}


def document(**statuses: str) -> dict[str, Any]:
    return {
        "name": "studio-01",
        "version": "0.1.0",
        "uptime_s": 4000.0,
        "summary": "Ready",
        "generation": 3,
        "observed_generation": 3,
        "digest": "d" * 64,
        "source": {"kind": "file", "path": "/etc/lmx.yaml", "revision": None, "verified": None},
        "last_applied": {"generation": 3, "digest": "d" * 64, "at": NOW - 3600},
        "conditions": [
            condition(kind, status, f"{kind} says") for kind, status in {**GOOD, **statuses}.items()
        ],
        "active": {"desired": "daily", "actual": "daily"},
        "models": {"daily": model("ready"), "other": model("on_disk")},
        "thermal": {"level": None, "hot": False, "why": ""},
        "memory": {
            "total_bytes": 20 * GIB,
            "budget_bytes": 10 * GIB,
            "used_bytes": 4 * GIB,
            "other_bytes": 6 * GIB,
            "warning_bytes": int(8.5 * GIB),
            "critical_bytes": 9 * GIB,
            "level": "normal",
            "cause": "",
            "step": None,
            "why": "",
        },
        "traffic": {"in_flight": 2, "queued": 1, "tokens_per_s": 55.4, "ttft_p50_ms": 1, "ttft_p95_ms": 2},
        "breakers": {"hub": {"state": "closed", "why": ""}},
        "plan": [],
        "history": [
            {"generation": n, "digest": "e" * 64, "at": NOW - n, "applied_at": None} for n in (1, 2, 3)
        ],
        "events": [{"id": n, "type": "Applied", "at": NOW - n, "message": f"event {n}"} for n in (1, 2)],
    }


def html(status: dict[str, Any], samples: tuple[Sample, ...] = (), diff: tuple[str, ...] = ()) -> str:
    return page(view(status, samples, NOW, Pending("refused", diff) if diff else NOTHING)).decode()


class Text(HTMLParser):
    """Checks that tags nest, and gathers text and headings."""

    VOID = frozenset({"meta", "link", "br", "rect", "line", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.text: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


def parsed(text: str) -> Text:
    found = Text()
    found.feed(text)
    found.close()
    assert found.open == []
    return found


@pytest.mark.parametrize(
    ("left", "words"),
    [(299.0, "5 min left at most"), (31.0, "1 min left at most"), (None, "kept until the file changes")],
)
def test_a_try_is_told_once_with_the_time_that_is_left(left: float | None, words: str) -> None:
    status = document(Overridden="True", Synced="False")
    next(one for one in status["conditions"] if one["type"] == "Synced")["reason"] = "Trying"
    status["try"] = {"left_s": left}
    (told,) = attention(status)
    assert (told.level, told.why) == ("notice", "Overridden says")
    assert told.what.startswith("A spec is tried")
    assert words in told.what


def test_the_parts_are_in_their_order() -> None:
    status = document()
    status["plan"] = [
        {"action": "load", "model": "daily", "reason": "r", "field": "active", "state": "running"}
    ]
    assert parsed(html(status, diff=("--- served", "+b"))).headings == [
        "Desired and actual",
        "Conditions",
        "Plan",
        "Memory",
        "The last 15 minutes",
        "Models",
        "Generations",
        "Events",
        "The edit that waits, against last-known-good",
    ]


def test_attention_is_silent_when_all_is_well() -> None:
    assert attention(document()) == []
    assert 'class="attention' not in html(document())


@pytest.mark.parametrize(
    ("kind", "status", "level"),
    [
        ("Ready", "False", "critical"),
        ("Stalled", "True", "critical"),
        ("ConfigAccepted", "False", "warning"),
        ("SourceReady", "False", "warning"),
        ("KeysReady", "False", "warning"),
        ("Degraded", "True", "warning"),
        ("MemoryPressure", "True", "warning"),
        ("ThermalPressure", "True", "warning"),
        ("CacheReady", "False", "warning"),
        ("SourceVerified", "False", "warning"),
        ("Suspended", "True", "notice"),
        ("Overridden", "True", "notice"),
        ("Synced", "False", "warning"),
    ],
)
def test_attention_says_what_why_and_since_when(kind: str, status: str, level: str) -> None:
    (one,) = attention(document(**{kind: status}))
    assert (one.level, one.why, one.since) == (level, f"{kind} says", NOW - 60)
    text = html(document(**{kind: status}))
    assert f'class="attention {level}"' in text
    assert "1 min ago" in text


def test_a_swap_on_its_way_is_nothing_to_look_at() -> None:
    assert attention(document(Synced="False", Reconciling="True")) == []


def test_what_is_worst_comes_first_and_is_said_once() -> None:
    found = attention(document(Overridden="True", Degraded="True", Ready="False", Synced="False"))
    assert [one.level for one in found] == ["critical", "warning", "notice"]


def test_what_stalls_it_is_not_said_twice() -> None:
    status = document(Stalled="True", ConfigAccepted="False")
    for one in status["conditions"]:
        one["message"] = "line 3: no such key"
    assert [one.what for one in attention(status)] == ["The newest file is refused; the one before is served"]


def test_a_quarantined_model_and_an_open_breaker_are_told() -> None:
    status = document()
    status["models"]["other"] = model("quarantined", reason="crashed three times")
    status["breakers"]["hub"] = {"state": "open", "why": "timed out"}
    assert {(one.what, one.why) for one in attention(status)} == {
        ("other is in quarantine", "crashed three times"),
        ("hub is left alone for now", "timed out"),
    }


def test_what_others_wrote_stays_text() -> None:
    evil = "<script>alert(1)</script>\"'&"
    status = document()
    status["name"] = evil
    status["models"] = {evil: model("failed", reason=evil, progress={"done": 1, "total": 2})}
    status["active"] = {"desired": evil, "actual": None}
    status["events"] = [{"id": 1, "type": evil, "at": NOW, "message": evil}]
    status["plan"] = [{"action": "load", "model": evil, "reason": evil, "field": evil, "state": "running"}]
    status["conditions"] = [condition("Ready", "False", evil)]
    text = html(status, diff=(f"+{evil}",))
    assert "<script>alert" not in text
    found = parsed(text)
    assert "".join(found.text).count("<script>alert(1)</script>") >= 8
    assert not [name for name, _ in found.attributes if name.startswith("on") or name == "style"]


def test_desired_and_actual_are_told_apart_where_they_differ() -> None:
    assert 'class="differs"' not in html(document())
    status = document()
    status["active"] = {"desired": "daily", "actual": None}
    status["observed_generation"] = 2
    text = html(status)
    seen = re.sub(r"<[^>]*>", " ", text)
    assert re.search(r"Model +daily +none \(differs\)", re.sub(r"\s+", " ", seen).replace("  ", " "))
    assert re.search(r"Generation 3 2 \(differs\)", re.sub(r"\s+", " ", seen))


def test_the_memory_bar_is_the_whole_machine() -> None:
    found = bar(document()["memory"])
    assert found is not None
    assert [(one.name, one.x, one.width) for one in found.segments] == [
        ("ours normal", 0, 200),  # 4 of 20 GiB
        ("others", 700, 300),  # 6 of 20, at the other end
    ]
    assert [(one.name, one.x) for one in found.marks] == [
        ("warning", 425),
        ("critical", 450),
        ("budget", 500),
    ]
    assert [(name, told) for _, name, told in found.legend] == [
        ("LMX", "4.0 GiB"), ("other programs", "6.0 GiB"), ("free", "10.0 GiB"),
    ]  # fmt: skip


@pytest.mark.parametrize(("used", "other"), [(30, 0), (20, 20), (0, 40), (19, 6)])
def test_more_than_there_is_stays_in_the_bar(used: int, other: int) -> None:
    memory = document()["memory"] | {
        "used_bytes": used * GIB,
        "other_bytes": other * GIB,
        "level": "critical",
    }
    found = bar(memory)
    assert found is not None
    ours, others = found.segments
    assert ours.name == "ours critical"
    assert ours.width + others.width <= 1000
    assert others.x == 1000 - others.width


def test_who_causes_pressure_has_its_colour() -> None:
    for cause, names in (("ours", ["ours warning", "others"]), ("others", ["ours normal", "others warning"])):
        found = bar(document()["memory"] | {"level": "warning", "cause": cause})
        assert found is not None
        assert [one.name for one in found.segments] == names


def test_what_lies_over_the_file_is_shown_with_its_end() -> None:
    status = document(Overridden="True")
    status["overrides"] = [
        {"kind": "try", "model": None, "by": "127.0.0.1", "at": NOW - 60, "until": NOW + 240},
        {"kind": "unload", "model": "other", "by": None, "at": NOW - 60, "until": None},
    ]
    text = re.sub(r"\s+", " ", "".join(parsed(html(status)).text))
    assert "Trythe whole appliance, by 127.0.0.1, 1 min ago, for 4 min more" in text
    assert "Unloadother, 1 min ago, until it is cleared" in text
    status["overrides"] = []
    assert "Unload" not in html(status)


def test_the_commit_is_told_where_there_is_one() -> None:
    status = document()
    git = {"url": "https://git.example/fleet", "ref": "main", "path": "hosts/studio-01.yaml"}
    signed = {"verified": True, "signer": "ops@example", "last_checked": NOW - 90}
    status["source"] |= {"kind": "git", "revision": "b" * 40, "head": "a" * 40, **git, **signed}
    text = re.sub(r"\s+", " ", " ".join(parsed(html(status)).text))
    assert f"Commit {'a' * 12} {'b' * 12} (differs)" in text  # seen, and what runs
    assert "hosts/studio-01.yaml of https://git.example/fleet at main , signed by ops@example" in text
    assert "asked 1 min ago" in text
    status["source"] |= {"head": None, "revision": None, "last_checked": None}
    assert "Commit" not in html(status)


def test_memory_that_is_not_measured_yet() -> None:
    status = document()
    status["memory"] |= {"budget_bytes": None, "used_bytes": None}
    assert "Not measured yet." in html(status)


def sample(n: int, **more: Any) -> Sample:
    values: dict[str, Any] = {"tokens_per_s": 10.0, "first_s": None, "used": GIB, "other": GIB}
    return Sample(NOW + n, **{**values, "queued": 0, "in_flight": 1, **more})


def test_the_trend_keeps_a_quarter_of_an_hour() -> None:
    trend = Trend()
    for n in range(3 * SECONDS):
        trend.add(sample(n))
    assert len(trend.samples) == SECONDS
    assert trend.samples[-1].at == NOW + 3 * SECONDS - 1


def test_a_peak_of_one_second_is_still_seen() -> None:
    values = [0.0] * SECONDS
    values[437] = 99.0
    thin = charts.columns([sample(n, tokens_per_s=value) for n, value in enumerate(values)], "tokens_per_s")
    assert len(thin) == charts.WIDTH
    assert max(value or 0.0 for value in thin) == 99.0


def test_a_gap_is_no_line() -> None:
    assert charts.path([1.0, None, 1.0], 2.0).count("M") == 2
    assert charts.path([1.0, None, 1.0], 2.0, area=True).count("M") == 2
    assert charts.path([None, None], 2.0) == ""
    assert charts.path([], 2.0) == ""


def test_an_even_stretch_is_one_step() -> None:
    assert charts.path([1.0] * 150, 2.0) == "M0 100L149 100"
    assert charts.path([0.0, 0.0, 2.0, 2.0, 2.0], 2.0) == "M0 198L1 198L2 2L4 2"


def test_a_chart_moves_on_by_whole_columns() -> None:
    """Within six seconds nothing but the newest column changes."""
    begin = int(NOW) // charts.COLUMN_S * charts.COLUMN_S - int(NOW)
    past = [sample(begin + n, tokens_per_s=float(n % 17)) for n in range(-SECONDS, 0)]
    before = charts.columns([*past, sample(begin, tokens_per_s=3.0)], "tokens_per_s")
    for more in range(1, charts.COLUMN_S):
        now = charts.columns([*past, sample(begin + more, tokens_per_s=3.0)], "tokens_per_s")
        assert now == before
    moved = charts.columns([*past, sample(begin + charts.COLUMN_S, tokens_per_s=3.0)], "tokens_per_s")
    assert moved[:-2] == before[1:-1]


@pytest.mark.parametrize("count", [0, 1, 5, 6, 899, 900])
def test_every_point_lies_in_its_box(count: int) -> None:
    samples = tuple(sample(n, tokens_per_s=float(n), first_s=n / 7) for n in range(count))
    text = html(document(), samples)
    for drawn in re.findall(r'class="line \w+" d="([^"]*)"', text):
        for x, y in re.findall(r"[ML](-?[\d.]+) (-?[\d.]+)", drawn):
            assert 0 <= float(x) <= charts.WIDTH
            assert 0 <= float(y) <= charts.HEIGHT or y == str(charts.BELOW)


def test_a_chart_is_told_in_words_too() -> None:
    text = html(document(), (sample(0), sample(1, tokens_per_s=80.0), sample(2, tokens_per_s=20.0)))
    assert 'aria-label="Tokens per second: now 20; at most 80 in the last 15 minutes"' in text
    assert 'aria-label="Requests: now running 1, waiting 0; at most 1 in the last 15 minutes"' in text


def test_what_goes_on_says_how_far_how_fast_and_how_long() -> None:
    status = document()
    status["models"]["other"] = model("downloading", progress={"done": GIB, "total": 4 * GIB})
    status["plan"] = [
        {"action": "download", "model": "other", "reason": "r", "field": "active", "state": "running"}
    ]
    paces = {"other": Pace(rate=80 * 2**20, left=38.4)}
    shown = view(status, (), NOW, paces=paces)
    assert shown.plan[0].told == "1.0 GiB of 4.0 GiB, 25 %, 80 MiB/s, 39 s left"
    text = page(shown).decode()
    assert f'<progress max="{4 * GIB}" value="{GIB}"' in text
    assert text.count("80 MiB/s") == 2  # in the plan, and beside the model


def test_a_pace_is_measured_over_the_last_seconds() -> None:
    paces = Paces()

    def look(at: float, done: int, total: int = 1000) -> Pace | None:
        return paces.look({"a": {"progress": {"done": done, "total": total}}}, at).get("a")

    assert look(0.0, 0) is None
    assert look(2.0, 20) == Pace(10.0, 98.0)
    for second in range(3, 40):
        found = look(float(second), 20 * second)
    assert found is not None
    assert found.rate == 20.0  # its slow beginning is forgotten
    assert look(41.0, 500) is None  # begun again
    assert look(60.0, 500) == Pace(0.0, None)
    assert look(61.0, 500, 2000) is None  # another file
    assert paces.look({"a": {"progress": None}}, 62.0) == {}


def test_an_edit_that_waits_is_shown_when_it_does_not_get_on() -> None:
    lines = ("--- last-known-good", "+++ edit", "+b")
    waiting = Pending("accepted, not carried out", lines)
    on_its_way = document(Synced="False", Reconciling="True")
    assert not view(on_its_way, (), NOW, waiting).diff
    assert not view(document(), (), NOW, waiting).diff
    assert view(document(Synced="False"), (), NOW, waiting).diff == (
        ("place", "--- last-known-good"), ("place", "+++ edit"), ("added", "+b"),
    )  # fmt: skip


def test_time_that_passes_is_no_difference() -> None:
    before, after = parts(view(document(), (), NOW)), parts(view(document(), (), NOW + 3700))
    assert tuple(before) == PARTS
    assert before["conditions"] != after["conditions"]
    assert all(same(before[name], after[name]) for name in PARTS)
    changed = parts(view(document(Degraded="True"), (), NOW))
    assert {name for name in PARTS if not same(before[name], changed[name])} == {"attention", "conditions"}


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (-5, "0 s"), (864e3, "10 d")],
)
def test_spans(seconds: float, words: str) -> None:
    assert wording.span(seconds) == words


@pytest.mark.parametrize(
    ("nbytes", "words"), [(0, "0 B"), (1536, "1.5 KiB"), (20 * 2**20, "20 MiB"), (2**40, "1024.0 GiB")]
)
def test_sizes(nbytes: int, words: str) -> None:
    assert wording.size(nbytes) == words
