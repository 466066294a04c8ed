"""Where the processes of one appliance leave their pid files and work: engines and skills.

Two appliances may share a state folder for a while (docs/upgrading.md). So under a holder each has a room of
its own in it, and one that starts while another drains cleans up nobody's. Alone, it ends what earlier ones
left.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from appliance.held import Link
from appliance.supervisor.pidfiles import reap_orphans

FOLDER = "run"


class Rooms:
    def __init__(self, state: Path, link: Link | None) -> None:
        self._state, self._link = state, link
        self.own = state if link is None else state / FOLDER / str(os.getpid())

    def clear(self) -> list[str]:
        """End the engines that an earlier run left; their ids. Blocks until they are gone."""
        if self._link is not None and not self._link.alone:
            return []
        rooms = [path for path in (self._state / FOLDER).glob("*") if path.is_dir()]
        killed = [engine for room in (self._state, *rooms) for engine in reap_orphans(room)]
        for room in rooms:
            shutil.rmtree(room, ignore_errors=True)
        return killed

    def leave(self) -> None:
        """At the end, when nothing of this process runs any more."""
        if self.own != self._state:
            shutil.rmtree(self.own, ignore_errors=True)
