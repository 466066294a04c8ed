"""A process that takes memory when told to, and can stand where an engine would.

A file `take-N` in the folder given makes it write N MiB, `drop` makes it give all back; it removes the file
when that is done. Other arguments are ignored.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

folder = Path(sys.argv[1])
held: list[bytearray] = []
while True:
    for wish in folder.glob("take-*"):
        mib = int(wish.name.removeprefix("take-"))
        held.append(bytearray(b"\1") * (mib * 2**20))
        wish.unlink()
    for wish in folder.glob("drop"):
        held.clear()
        wish.unlink()
    time.sleep(0.005)
