"""From a figure to the system's own level of pressure, and a sentence that names the figure. Pure.

No hysteresis here: a level says what is, and `reconciler.pressure` decides how long it has to last.
"""

from __future__ import annotations

from reconciler.readings import LEVELS, Level

MIB, GIB = 2**20, 2**30
Judged = tuple[Level, str]
NOTHING: Judged = ("normal", "")

# Share of a stall over ten seconds. The kernel's own documentation wakes a watcher at 15 % of a second;
# systemd-oomd kills from 60 % on. `some`: at least one task waits for memory; `full`: all do.
SOME_WARNING, SOME_CRITICAL = 20.0, 60.0
FULL_WARNING, FULL_CRITICAL = 10.0, 40.0
# Bytes a second. Both systems page out a little at all times; a model that is paged out under load goes
# by hundreds of megabytes.
SWAP_WARNING, SWAP_CRITICAL = 16 * MIB, 128 * MIB


def low(total: int) -> int:
    """Bytes below which the memory left counts as little: a twentieth, between half a GiB and four GiB,
    but never more than an eighth of a small machine."""
    return min(max(total // 20, 512 * MIB), 4 * GIB, total // 8)


def memory_left(total: int, available: int, where: str = "the machine") -> Judged:
    """Critical from two fifths of `low` down: a fiftieth of an ordinary machine. total 0: not known."""
    floor = low(total)
    if total <= 0 or available >= floor:
        return NOTHING
    text = f"{human(available)} of {human(total)} left on {where}"
    return ("critical" if available < floor * 2 // 5 else "warning"), text


def stalls(some: float | None, full: float | None, where: str) -> Judged:
    """Percent of the last ten seconds in which tasks waited for memory."""
    some, full = some or 0.0, full or 0.0
    if some >= SOME_CRITICAL or full >= FULL_CRITICAL:
        level: Level = "critical"
    elif some >= SOME_WARNING or full >= FULL_WARNING:
        level = "warning"
    else:
        return NOTHING
    return level, f"{where}: tasks waited for memory {some:.0f} % of the time, all of them {full:.0f} %"


def swapping(rate: float | None, more: str = "") -> Judged:
    """rate: bytes a second written out of memory; None: not known yet."""
    if rate is None or rate < SWAP_WARNING:
        return NOTHING
    level: Level = "critical" if rate >= SWAP_CRITICAL else "warning"
    return level, f"{human(int(rate))}/s go out to swap{more}"


def worst(*judged: Judged) -> Judged:
    """The worst level, with the sentences of all that are not normal, the worst first."""
    found = sorted((j for j in judged if j[0] != "normal"), key=lambda j: -LEVELS.index(j[0]))
    return (found[0][0], "; ".join(why for _, why in found)) if found else NOTHING


def human(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB else f"{size / MIB:.0f} MiB"
