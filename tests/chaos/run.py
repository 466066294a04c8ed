"""`make chaos`: faults upon faults on a real appliance under load, and a close look afterwards.

    python -m tests.chaos.run [--seed N] [--faults N] [--clients N] [--out FILE.json]

The same seed gives the same faults in the same order. Exit status 1 when anything did not hold; the seed,
the faults and the appliance's own log are then printed and kept.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tests.chaos import verdict
from tests.chaos.appliance import appliance
from tests.chaos.faults import KINDS, RESTARTS, Fault
from tests.chaos.faults.engines import Garbage
from tests.chaos.scene import Report, Scene
from tests.chaos.wiretap import possible

RESTARTS_PART = 30  # one restart to so many faults


def kinds() -> tuple[type[Fault], ...]:
    """Those that can be done on this machine."""
    return KINDS if possible() else tuple(k for k in KINDS if k is not Garbage)


def percentile(values: list[float], part: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


def figures(report: Report) -> dict[str, Any]:
    evidence = report.evidence
    assert evidence is not None
    records, points = evidence.records, verdict.steady(evidence.samples)
    waits = [
        seconds for at, seconds, _ in evidence.health if not verdict.within(evidence.down, at, at + seconds)
    ]
    first = [r.first_s for r in records if r.first_s is not None]
    return {
        "seed": report.seed,
        "seconds": round(report.seconds, 1),
        "faults": dict(sorted(report.faults.items())),
        "faults_in_all": sum(report.faults.values()),
        "missed": dict(report.missed),
        "reconciled_by_hand": report.reconciled,
        "requests": len(records),
        "outcomes": dict(Counter(r.outcome for r in records).most_common()),
        "longest_request_s": round(max((r.end - r.begin for r in records), default=0.0), 1),
        "first_event_p50_s": round(percentile(first, 0.5), 3),
        "healthz_p99_ms": round(percentile(waits, 0.99) * 1000, 1),
        "healthz_worst_ms": round(max(waits, default=0.0) * 1000, 1),
        "settled_s": round(report.settled_s, 1),
        "parent_mib": {
            "first": round(points[0][1] / verdict.MIB, 1) if points else None,
            "last": round(points[-1][1] / verdict.MIB, 1) if points else None,
            "slope_per_hour": round(verdict.slope(points) * 3600 / verdict.MIB, 2),
        },
        "open_files": [evidence.quiet_before.handles, evidence.quiet_after.handles],
        "threads": [evidence.quiet_before.threads, evidence.quiet_after.threads],
        "problems": report.problems,
    }


def show(console: Console, found: dict[str, Any]) -> None:
    faults = Table("FAULT", "TIMES", title=f"{found['faults_in_all']} faults, seed {found['seed']}")
    for kind, count in found["faults"].items():
        faults.add_row(kind, str(count))
    outcomes = Table("OUTCOME", "REQUESTS", title=f"{found['requests']} requests")
    for outcome, count in found["outcomes"].items():
        outcomes.add_row(outcome, str(count))
    console.print(faults, outcomes)
    for key in found.keys() - {"faults", "outcomes", "problems"}:
        console.print(f"{key}: {found[key]}", highlight=False)


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos.run", description=__doc__)
    parser.add_argument("--seed", type=int, default=int(time.time()) % 100_000)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--clients", type=int, default=6)
    parser.add_argument("--kind", action="append", help="only faults of this kind")
    parser.add_argument("--out", type=Path, default=Path("bench/results/chaos.json"))
    args = parser.parse_args()
    console = Console()
    console.print(f"seed {args.seed}, {args.faults} faults")
    chosen = [k for k in kinds() if args.kind is None or k.kind in args.kind]
    restarts = [k for k in RESTARTS if args.kind is None or k.kind in args.kind]
    last = max(args.faults // RESTARTS_PART, 3) if restarts else 0
    if not chosen:
        last = args.faults
    acts = [act for act in ((args.faults - last, chosen), (last, restarts)) if act[0] > 0]
    folder = Path(tempfile.mkdtemp(prefix="lmx-chaos-"))
    with appliance(folder) as machine:
        report = asyncio.run(Scene(machine, args.seed).play(acts, args.clients))
        assert report.evidence is not None
        report.problems += verdict.failures(report.evidence)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(machine.log, args.out.with_suffix(".log"))
    found = figures(report)
    show(console, found)
    args.out.write_text(json.dumps({**found, "log": report.log}, indent=1) + "\n", encoding="utf-8")
    for problem in report.problems:
        console.print(f"[red]PROBLEM[/red] {problem}", highlight=False)
    if report.problems:
        log = args.out.with_suffix(".log")
        console.print(f"again: make chaos SEED={args.seed} FAULTS={args.faults}; the appliance's log: {log}")
    shutil.rmtree(folder, ignore_errors=True)
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
