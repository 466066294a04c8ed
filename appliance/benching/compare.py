"""Two runs side by side, and which differences are more than noise.

**A speed** has one value a round on each side. Under noise alone every order of the rounds of both sides is
as likely as any other; a difference counts where an order that sets the sides at least as far apart comes
up in under 5 % of them (the exact Mann-Whitney test, both directions; Mann and Whitney, Ann. Math. Statist.
18, 1947). With four rounds against four that takes rounds that do not overlap at all; with three against
three nothing can count.

**Quality** is judged over cells, not rounds: one that a model answers the same way each time says no more
for being asked again. Of the cells whose share of passes differs, so many must have changed in one
direction that a fair coin would do it in under 5 % of tries (the exact sign test): six of six, or eight of
nine. Single cells are named all the same, for there the eye sees more than a count.

Neither sees what drifts between two runs: heat, another program, a shared machine. Two runs of the same
setting show how much that is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

LIKELY = 0.05  # chance at or above which a difference is noise


def compared(
    before: Mapping[str, Any], after: Mapping[str, Any], settings: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """The member `against` of a document. settings: those that differ, with `path`, before and after."""
    earlier = {figure["name"]: figure for figure in before["figures"]}
    areas = {area["area"]: area for area in before["quality"]}
    same_cells = before.get("cells") == after.get("cells")
    return {
        "at": before["at"],
        "settings": list(settings),
        "notes": notes(before, after, settings),
        "figures": [
            _figure(earlier[figure["name"]], figure)
            for figure in after["figures"]
            if figure["name"] in earlier
        ],
        "quality": [
            _area(areas[area["area"]], area)
            for area in after["quality"]
            if area["area"] in areas and same_cells
        ],
    }


def notes(before: Mapping[str, Any], after: Mapping[str, Any], settings: Sequence[Any]) -> list[str]:
    """What a reader must know before believing the table."""
    found = []
    if not settings:
        found.append("no setting differs: what differs here is noise, or something outside LMX")
    if len(settings) > 1:
        found.append(f"{len(settings)} settings differ: these tables cannot say which of them did it")
    for what, name in (
        ("kind", "kind of run"),
        ("model", "model"),
        ("max_tokens", "longest answer"),
    ):
        if before.get(what) != after.get(what):
            found.append(f"another {name}: {before.get(what)} before, {after.get(what)} now")
    old, new = before["appliance"].get("version"), after["appliance"].get("version")
    if old != new:
        found.append(f"another version of LMX: {old} before, {new} now")
    if before.get("cells") and after.get("cells") and before["cells"] != after["cells"]:
        found.append("other cells were asked: their results are not compared")
    return found


def _figure(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    chance = mann_whitney(before["values"], after["values"])
    change = after["median"] / before["median"] - 1 if before["median"] else None
    up = after["median"] > before["median"]
    verdict = "noise"
    if chance < LIKELY and after["median"] != before["median"]:
        verdict = "better" if up is (after["better"] == "higher") else "worse"
    return {
        "name": after["name"],
        "before": before["median"],
        "after": after["median"],
        "change": None if change is None else round(change, 4),
        "chance": round(chance, 4),
        "verdict": verdict,
    }


def _area(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    earlier = {cell["name"]: _share(cell) for cell in before["cells"]}
    pairs = [(cell["name"], earlier[cell["name"]], _share(cell)) for cell in after["cells"]]
    better = sum(new > old for _, old, new in pairs)
    worse = sum(new < old for _, old, new in pairs)
    chance = sign_test(better, worse)
    verdict = "noise"
    if chance < LIKELY:
        verdict = "better" if better > worse else "worse"
    return {
        "area": after["area"],
        "before": round(before["passed"] / before["asked"], 4),
        "after": round(after["passed"] / after["asked"], 4),
        "chance": round(chance, 4),
        "verdict": verdict,
        "cells": [
            {"name": name, "before": round(old, 4), "after": round(new, 4)}
            for name, old, new in pairs
            if old != new
        ],
    }


def _share(cell: Mapping[str, Any]) -> float:
    passed: list[bool] = cell["passed"]
    return sum(passed) / len(passed)


def mann_whitney(a: Sequence[float], b: Sequence[float]) -> float:
    """Chance of rounds set apart at least as far as these, in either direction, where both sides are one.

    Values that are equal count half, which makes the result larger than it should be: on the safe side.
    """
    if not a or not b:
        return 1.0
    wins = sum((x > y) + 0.5 * (x == y) for x in a for y in b)
    extreme = math.floor(min(wins, len(a) * len(b) - wins) + 0.5)
    ways = sum(_ways(len(a), len(b), u) for u in range(extreme + 1))
    return min(1.0, 2 * ways / math.comb(len(a) + len(b), len(a)))


@functools.cache
def _ways(n: int, m: int, u: int) -> int:
    """Orders of n and m values in which exactly u pairs have the first one larger."""
    if u < 0:
        return 0
    if n == 0 or m == 0:
        return int(u == 0)
    return _ways(n - 1, m, u - m) + _ways(n, m - 1, u)


def sign_test(better: int, worse: int) -> float:
    """Chance that a fair coin falls at least as unevenly, in either direction."""
    tries = better + worse
    tail = sum(math.comb(tries, k) for k in range(min(better, worse) + 1))
    return min(1.0, float(2 * tail / 2**tries))
