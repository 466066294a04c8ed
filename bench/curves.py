"""The prompt cache's figures, drawn: how a turn begins, and an agent's turns on both sides."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from bench.agents import AT_ONCE, FIT

SIDES = (("peer", "mlx-lm's server"), ("ours", "LMX"))


def draw(found: dict[str, Any], file: Path) -> None:
    """found: the record of `bench.reuse`; a part that has not run leaves its place empty."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 4, figsize=(18, 4.5))
    _starts(axes[0], found.get("turn", {}))
    agent = found.get("agent", {})
    _turns(axes[1], "an agent with tools", agent.get("plain", {}))
    _turns(axes[2], "the same, with a system prompt that changes", agent.get("changing", {}))
    _turns(axes[3], f"{AT_ONCE} agents at once, memory for {FIT}", found.get("crowd", {}))
    figure.tight_layout()
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _starts(axes: Any, shapes: dict[str, Any]) -> None:
    """A group of bars for each way to begin, a bar for each model. floor: without any server."""
    tiers = ("cold", "disk", "memory", "floor")
    shapes = {
        shape: rounds for shape, rounds in shapes.items() if "floor" in rounds[0]
    }  # older records have none
    for number, (shape, rounds) in enumerate(shapes.items()):
        first = [statistics.median(round_[tier]["first_s"] for round_ in rounds) for tier in tiers]
        width = 0.8 / len(shapes)
        axes.bar([place + number * width for place in range(len(tiers))], first, width, label=shape)
    axes.set(title="the next turn of 8,000 tokens", ylabel="seconds to first token")
    if shapes:
        axes.set(yscale="log")
        axes.set_xticks([place + 0.4 for place in range(len(tiers))], tiers)
        axes.legend(fontsize="small")


def _turns(axes: Any, title: str, record: dict[str, Any]) -> None:
    """Turn by turn, the mean of all conversations."""
    rounds = record.get("rounds", ())
    for side, label in SIDES:
        talks = [[turn["first_s"] for turn in talk] for round_ in rounds for talk in round_[side]["turns"]]
        if talks:
            means = [statistics.mean(turns) for turns in zip(*talks, strict=True)]
            axes.plot(range(1, len(means) + 1), means, label=label)
    axes.set(title=title, xlabel="turn", ylabel="seconds to first token")
    if rounds:
        axes.set(ylim=(0, None))
        axes.legend(fontsize="small")
