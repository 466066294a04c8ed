"""`lmx simulate`: what a ladder would do under a trace, without an engine."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.standin import Lmx

TRACES = Path(__file__).parents[2] / "examples" / "traces"
SPEC = """\
version: 1
active: chat
models:
  chat: {source: builtin:lmx-demo}
  code: {source: builtin:lmx-demo-mini, residency: on_demand, priority: 50}
"""
HOT = '{"t": 10, "budget": "1GiB", "used": "100MiB", "heat": "heavy"}\n'


@pytest.fixture
def spec(lmx: Lmx) -> Path:
    path = lmx.folder / "lmx.yaml"
    path.write_text(SPEC)
    return path


@pytest.mark.parametrize("trace", sorted(TRACES.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_example_traces_run_as_they_say(lmx: Lmx, spec: Path, trace: Path) -> None:
    assert f"lmx simulate examples/traces/{trace.name} --spec lmx.yaml" in trace.read_text()
    result = lmx.inside("simulate", str(trace), "--spec", "lmx.yaml")
    assert (result.code, result.err) == (0, "")
    assert result.out.splitlines()[-1].endswith("at the end: nothing in force")


def test_a_memory_hog_as_a_timeline(lmx: Lmx, spec: Path) -> None:
    lines = lmx.inside("simulate", str(TRACES / "memory-hog.yaml")).out.splitlines()
    rows = [line.split(maxsplit=3) for line in lines[2:-1]]
    assert lines[1].split() == ["TIME", "LEVEL", "DECISION", "WHY"]
    assert rows[0] == ["1m", "warning", "Pressure", (
        "memory pressure is warning: other programs use 12.0 GiB: 600 MiB of 24 GiB left, 800 pages swapped "
        "out a second; LMX uses 11.0 GiB of 16.0 GiB (68.8%)"
    )]  # fmt: skip
    steps = [(time, kind, why.partition(" ")[0].rstrip(":")) for time, _, kind, why in rows if "Step" in kind]
    foreign = ["drop_caches", "page_idle", "throttle", "lower_concurrency", "lower_context"]
    assert [why for _, _, why in steps[:10]] == [*foreign, *reversed(foreign)]
    assert [step[1] for step in steps] == [
        *["StepTaken"] * 5, *["StepUndone"] * 5, *["StepTaken"] * 7, *["StepUndone"] * 7,
    ]  # fmt: skip
    assert steps[15:18] == [
        ("5m20s", "StepTaken", "shed"), ("6m35s", "StepTaken", "unload"), ("6m47s", "StepUndone", "unload"),
    ]  # fmt: skip


def test_heat_and_service_levels_as_a_timeline(lmx: Lmx, spec: Path) -> None:
    out = lmx.inside("simulate", str(TRACES / "hot-afternoon.yaml")).out
    assert "15m     normal  Ceilings  thermal: max_context_tokens=64000\n" in out
    assert "15m     normal  SloStage  chat: p95 time to first token 4.2 s over 2 s" in out
    assert "26m15s  normal  Thermal   heat is nominal: context ceilings are back\n" in out


def test_json_for_programs(lmx: Lmx, spec: Path) -> None:
    (lmx.folder / "trace.jsonl").write_text(HOT)
    result = lmx.inside("simulate", "trace.jsonl", "-o", "json")
    assert result.code == 0
    assert json.loads(result.out) == {
        "trace": "trace.jsonl",
        "spec": "lmx.yaml",
        "readings": 1,
        "seconds": 0.0,
        "decisions": [
            {
                "t": 10.0,
                "after_s": 0.0,
                "type": "Thermal",
                "message": "heat is heavy: context ceilings come down to context.safe_mode",
                "data": {"heat": "heavy", "hot": True},
            },
            {
                "t": 10.0,
                "after_s": 0.0,
                "type": "Ceilings",
                "message": "thermal: max_context_tokens=64000",
                "data": {
                    "max_context_tokens": 64000, "why": "thermal: max_context_tokens=64000", "rows": {},
                },
            },
        ],
        "end": {
            "level": "normal",
            "cause": "",
            "steps": [],
            "shed": [],
            "unloaded": None,
            "hot": True,
            "ceilings": {
                "max_context_tokens": 64000, "why": "thermal: max_context_tokens=64000", "rows": {},
            },
            "stages": {},
        },
    }  # fmt: skip


def test_the_budget_comes_from_the_spec_where_the_trace_names_none(lmx: Lmx, spec: Path) -> None:
    (lmx.folder / "trace.jsonl").write_text('{"t": 0, "used": "900MiB"}\n')
    refused = lmx.inside("simulate", "trace.jsonl")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err == (
        "lmx: trace.jsonl:1:1: budget is missing; write it here, once at the top, "
        "or as a size in memory.budget\n"
    )
    spec.write_text(SPEC + "memory: {budget: 1GiB}\n")
    assert "LMX uses 900 MiB of 1.0 GiB (87.9%)" in lmx.inside("simulate", "trace.jsonl").out


def test_another_file_can_be_tried(lmx: Lmx) -> None:
    other = lmx.folder / "other.yaml"
    other.write_text(SPEC + "memory: {warning: 89%}\n")
    (lmx.folder / "trace.jsonl").write_text('{"t": 0, "budget": "1GiB", "used": "900MiB"}\n')
    for option in ("--spec", "-f", "--file"):
        out = lmx.inside("simulate", "trace.jsonl", option, "other.yaml").out
        assert out == "1 reading over 0s, 0 decisions; at the end: nothing in force\n"


def test_a_trace_can_come_through_a_pipe(lmx: Lmx, spec: Path) -> None:
    result = lmx("simulate", "-", stdin=HOT)
    assert result.code == 0
    assert "thermal: max_context_tokens=64000" in result.out


def test_on_a_terminal_it_is_a_coloured_table(lmx: Lmx, spec: Path) -> None:
    (lmx.folder / "trace.jsonl").write_text(HOT)
    out = lmx.terminal("simulate", "trace.jsonl").out
    assert "\x1b[" in out
    assert "thermal: max_context_tokens=64000" in out


def test_a_recording_that_was_cut_off_is_used_up_to_there(lmx: Lmx, spec: Path) -> None:
    (lmx.folder / "trace.jsonl").write_text(HOT + HOT[:20])
    result = lmx.inside("simulate", "trace.jsonl")
    assert result.code == 0
    assert result.err == "lmx: the last line of trace.jsonl was cut off and is left out\n"
    assert "1 reading over 0s" in result.out


def test_mistakes_are_told_and_nothing_is_shown(lmx: Lmx, spec: Path) -> None:
    missing = lmx.inside("simulate", "nowhere.yaml")
    assert (missing.code, missing.out) == (1, "")
    assert missing.err == "lmx: the trace nowhere.yaml cannot be read: No such file or directory.\n"
    (lmx.folder / "bad.yaml").write_text("budget: 1GiB\nreadings:\n  - {used: lots}\n")
    bad = lmx.inside("simulate", "bad.yaml")
    assert (bad.code, bad.out) == (1, "")
    assert bad.err.startswith("lmx: bad.yaml:3:12: readings[0].used: expected bytes")
    (lmx.folder / "folder").mkdir()
    assert "cannot be read: Is a directory." in lmx.inside("simulate", "folder").err


def test_no_engine_code_is_loaded(lmx: Lmx, spec: Path) -> None:
    words = ["simulate", str(TRACES / "memory-hog.yaml")]
    program = (
        f"import sys; from appliance.cli.__main__ import main; main({words!r}); "
        "print(sorted({name.partition('.')[0] for name in sys.modules} & {'mlx', 'mlx_lm', 'sanic'}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=lmx.folder, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
