"""`lmx up` on a small machine with faults: `python -m tests.chaos.up FILE CONTROLS`.

What the loop reads is recorded in CONTROLS, as `lmx up --record` does it.

Everything is the real product but three things that it takes from outside: the machine it runs on (see
small_machine), the command that starts an engine (the real engine, with faults that can be switched on),
and what the wall clock says.
"""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path

from appliance.app import run
from tests.chaos.small_machine import SmallMachine

LOOK_S = 0.05


def let_the_clock_jump(file: Path) -> None:
    """From now on `time.time` is off by the seconds that `file` holds; without it, it is right."""
    right, off = time.time, [0.0]

    def watch() -> None:
        while True:
            try:
                off[0] = float(file.read_text(encoding="ascii") or 0)
            except FileNotFoundError:
                off[0] = 0.0
            time.sleep(LOOK_S)

    time.time = lambda: right() + off[0]  # type: ignore[assignment]
    threading.Thread(target=watch, name="clock", daemon=True).start()


def engine(controls: Path) -> tuple[str, ...]:
    return (sys.executable, "-P", "-m", "tests.engine.faulty", "--faults", str(controls / "engine.json"))


def main() -> int:
    file, controls = map(Path, sys.argv[1:])
    let_the_clock_jump(controls / "clock")
    return run(file, SmallMachine(controls), engine=engine(controls), record=controls / "trace.jsonl")


if __name__ == "__main__":
    sys.exit(main())
