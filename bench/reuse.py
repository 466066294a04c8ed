"""The prompt cache's promises: `python -m bench reuse`, or one part of it, as `reuse.turn`.

Every part runs by itself. The rounds behind the rows go to reuse.json beside the table's file and, drawn, to
reuse.png; parts that did not run this time are taken from the file as it was.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import agents, curves, models, nextturn, writing
from bench.sides import ROOT
from bench.speed import Row

Record = dict[str, Any]
MEMORY, DISK = 1 / 35, 1 / 12  # of the cold time
ONE, SEVERAL, KEPT, LOOKUP_MS = 0.5, 0.35, 0.97, 20.0
SHAPES = ("flat", "window", "5m", "5m-window")  # of the next turn; a cold prompt of the 90m takes minutes
CROWD_ROUNDS = 1  # 160 turns a side, and minutes of them: the sum is as good as a median


def run(scratch: Path, parts: list[str], rounds: int, out: Path) -> Iterator[Row]:
    """out: folder of the results."""
    file = out / "reuse.json"
    found: Record = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    for part in parts:
        record, rows = PARTS[part](scratch, rounds)
        found[part] = record
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
        yield from rows
    curves.draw(found, out / "reuse.png")


def _turn(scratch: Path, rounds: int) -> tuple[Record, list[Row]]:
    record, rows = {}, []
    for shape in SHAPES:
        played = nextturn.play(scratch, shape, rounds)
        record[shape] = [asdict(round_) for round_ in played]
        name = f"next turn of {played[0].cold.prompt:,} tokens, {shape}"
        for tier in ("cold", "memory", "disk"):
            first = statistics.median(getattr(round_, tier).first_s for round_ in played)
            rows.append(Row(f"{name}: first token, {tier}", 1000 * first, None, unit="ms"))
        first = statistics.median(round_.floor.first_s for round_ in played)
        rows.append(Row(f"{name}: bare forward of the new tokens", 1000 * first, None, unit="ms"))
        for tier, goal in (("memory", MEMORY), ("disk", DISK)):
            ratios = [getattr(round_, tier).first_s / round_.cold.first_s for round_ in played]
            where = "memory" if tier == "memory" else "disk after kill -9"
            rows.append(Row(f"{name}: {where} / cold", statistics.median(ratios), goal, at_least=False))
    return record, rows


def _agent(scratch: Path, rounds: int) -> tuple[Record, list[Row]]:
    record: Record = {}
    rows: list[Row] = []
    for name, words in agents.KINDS.items():
        played = agents.one(scratch, rounds, name)
        record[name], more = _agents(f"agent of {agents.TURNS} turns{words}", played, ONE)
        rows += more
    return record, rows


def _crowd(scratch: Path, rounds: int) -> tuple[Record, list[Row]]:
    name = f"{agents.AT_ONCE} agents at once, memory for {agents.FIT}"
    return _agents(name, agents.several(scratch, CROWD_ROUNDS), SEVERAL)


def _agents(name: str, played: list[dict[str, agents.Played]], goal: float) -> tuple[Record, list[Row]]:
    rows = []
    for side in [side for side in ("peer", "ours", "floor") if side in played[0]]:
        first = statistics.median(round_[side].first_s for round_ in played)
        cached = 100 * statistics.median(round_[side].cached for round_ in played)
        what = "bare forward of the new tokens" if side == "floor" else "total to first token"
        rows.append(Row(f"{name}: {side}, {what}", first, None, unit="s"))
        if side == "floor":
            continue
        rows.append(Row(f"{name}: {side}, prompt tokens from the cache", cached, None, unit="%"))
    for side in ("ours", "peer"):
        if "floor" in played[0]:
            over = statistics.median(round_[side].first_s / round_["floor"].first_s for round_ in played)
            rows.append(Row(f"{name}: {side} / floor", over, None))
    ratio = statistics.median(round_["ours"].first_s / round_["peer"].first_s for round_ in played)
    rows.append(Row(f"{name} (results as user messages): ours / peer", ratio, goal, at_least=False))
    return {"rounds": [{side: asdict(p) for side, p in round_.items()} for round_ in played]}, rows


def _writing(scratch: Path, rounds: int) -> tuple[Record, list[Row]]:
    played = writing.play(scratch, rounds)
    kept = statistics.median(on.rate / off.rate for on, off in played)
    work = statistics.median(on.processor_s / off.processor_s for on, off in played)
    rate = statistics.median(off.rate for _, off in played)
    name = f"{writing.STREAMS} streams while prompts are kept"
    rows = [
        Row(f"{name}: each, disk off", rate, None, unit="tokens/s"),
        Row(f"{name}: speed, disk on / off", kept, KEPT),
        Row(f"{name}: the engine's processor time, disk on / off", work, None),
    ]
    return {"rounds": [[asdict(on), asdict(off)] for on, off in played]}, rows


def _lookup(scratch: Path, rounds: int) -> tuple[Record, list[Row]]:
    folder = models.make(scratch / "lookup", "5m")
    command = [sys.executable, "-m", "bench.lookup", str(folder)]
    times = json.loads(subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout)
    words = {"dense": "resumes anywhere", "states": "resumes at states"}
    rows = []
    for name, found in times.items():
        what = f"lookup and bookkeeping, 100,000 tokens, {words[name]}"
        rows.append(Row(what, statistics.median(found), LOOKUP_MS, at_least=False, unit="ms"))
        rows.append(Row(f"{what}, worst of {len(found)}", max(found), None, unit="ms"))
    return times, rows


PARTS: dict[str, Callable[[Path, int], tuple[Record, list[Row]]]] = {
    "turn": _turn,
    "agent": _agent,
    "crowd": _crowd,
    "writing": _writing,
    "lookup": _lookup,
}
