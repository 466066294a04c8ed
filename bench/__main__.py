"""`make bench`: every figure that LMX promises, measured side by side in one run.

    python -m bench [PART ...] [--rounds N] [--shape 5m ...] [--out FILE.json] [--reference PYTHON]

PART: speed, serving, ws, swap, overload, strain, crowding, kv, masks, skills, dashboards, reuse; of the last,
also one of reuse.turn, reuse.agent, reuse.crowd, reuse.writing, reuse.lookup. And embed, which needs
--reference: a Python that has sentence-transformers.

Prints a table and writes JSON. Exit status 1 when a goal is not reached.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from bench import (
    crowding,
    dashboards,
    embed,
    kv,
    masks,
    overload,
    reuse,
    serving,
    skills,
    speed,
    strain,
    swap,
    ws,
)
from bench.speed import Row

PARTS = (
    *("speed", "serving", "ws", "swap", "overload", "strain", "crowding", "reuse", "kv", "masks", "skills"),
    "dashboards",
)
REUSE = [f"reuse.{part}" for part in reuse.PARTS]  # each of them by itself


def _rows(
    parts: list[str], scratch: Path, rounds: int, shapes: list[str], out: Path, reference: Path | None
) -> Iterator[Row]:
    if "embed" in parts:
        yield from embed.run(scratch, rounds, reference)
    if "speed" in parts:
        yield from speed.run(scratch, rounds, shapes)
    if "serving" in parts:
        yield from serving.run(scratch)
    if "ws" in parts:
        yield from ws.run(scratch, rounds)
    if "swap" in parts:
        yield from swap.run(scratch)
    if "overload" in parts:
        yield from overload.run(scratch)
    if "strain" in parts:
        yield from strain.run(scratch)
    if "crowding" in parts:
        yield from crowding.run(scratch, rounds, out)
    if found := [part for part in reuse.PARTS if {"reuse", f"reuse.{part}"} & set(parts)]:
        yield from reuse.run(scratch, found, rounds, out)
    if "kv" in parts:
        yield from kv.run(scratch, rounds)
    if "masks" in parts:
        yield from masks.run(scratch, rounds)
    if "skills" in parts:
        yield from skills.run(scratch, rounds)
    if "dashboards" in parts:
        yield from dashboards.run(scratch, rounds)


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, *REUSE, "embed", []], default=list(PARTS))
    parser.add_argument("--reference", type=Path, help="a Python with sentence-transformers, for embed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--shape", nargs="+", choices=["5m", "90m"], default=["5m", "90m"])
    parser.add_argument("--out", type=Path, default=Path("bench/results/latest.json"))
    args = parser.parse_args()
    rows = []
    console = Console()
    if args.reference is not None and args.parts == list(PARTS):
        args.parts = [*PARTS, "embed"]
    with tempfile.TemporaryDirectory(prefix="lmx-bench-") as scratch:
        folder = args.out.parent
        for row in _rows(args.parts, Path(scratch), args.rounds, args.shape, folder, args.reference):
            rows.append(row)
            console.print(_line(row), highlight=False)
    console.print(_table(rows))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    record = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "rows": [{**vars(row), "met": row.met} for row in rows],
    }
    args.out.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return 0 if all(row.met is not False for row in rows) else 1


def _value(row: Row) -> str:
    return f"{row.value:.3g}" if abs(row.value) < 1000 else f"{row.value:,.0f}"


def _goal(row: Row) -> str:
    if row.goal is None:
        return ""
    return f"{'>=' if row.at_least else '<='} {row.goal:g}"


def _line(row: Row) -> str:
    return f"{row.what}: {_value(row)} {row.unit} {_goal(row)}"


def _table(rows: list[Row]) -> Table:
    table = Table("WHAT", "VALUE", "UNIT", "GOAL", "")
    words = {True: "met", False: "MISSED", None: ""}
    for row in rows:
        table.add_row(row.what, _value(row), row.unit, _goal(row), words[row.met])
    return table


if __name__ == "__main__":
    sys.exit(main())
