"""Named conversations: what they hold in both tiers. Only for the decode thread; files are the registry's."""

from __future__ import annotations

from appliance.engine.outgoing import Outgoing
from appliance.engine.prompt import Job
from appliance.prompt_cache.index import Entry, Index
from appliance.prompt_cache.pins import Pins
from appliance.prompt_cache.sessions import MOST, NAME_MOST, Named
from appliance.wire import Session

SETTLE = 1.5  # seconds after the end of a row: by then its last block is with the writer


class Sessions:
    """named: the registry of their files; None without a disk tier."""

    def __init__(self, index: Index, named: Named | None, outgoing: Outgoing | None) -> None:
        self._pins = Pins(index)
        self._named = named
        self._outgoing = outgoing
        self._newest: dict[tuple[str, str], tuple[bytes, int, float]] = {}  # not yet told to the registry
        for session in reversed(named.list() if named is not None else []):
            last = next((entry for key in reversed(session.keys) if (entry := index.get(key))), None)
            last = index.get(session.leaf) or last
            self._pins.hold(session.scope, session.name, last, session.tokens, session.used_at)

    def ended(self, job: Job, last: Entry, tokens: int, now: float) -> None:
        """A text of `tokens` tokens that ends with `last` is the newest of its session, if it has one."""
        name = job.session
        if name is None or len(name) > NAME_MOST:  # the server refuses longer ones
            return
        self._pins.hold(job.scope, name, last, tokens, now)
        self._pins.limit(MOST)
        if self._named is not None:
            self._newest[job.scope, name] = last.key, tokens, now

    def turn(self, before: float) -> None:
        """Tell the registry of what ended before then."""
        for (scope, name), (leaf, tokens, used) in list(self._newest.items()) if self._newest else ():
            if self._named is not None and used <= before:
                del self._newest[scope, name]
                self._named.touch(name, scope, leaf, tokens, used)

    def cool(self, before: float) -> None:
        """What was not used since then leaves memory, where the disk has it."""
        self._pins.cool(before)

    def all(self) -> list[Session]:
        """The most recently used first."""
        held = sorted(self._pins.held.items(), key=lambda item: -item[1].used)
        return [
            Session(name, one.tokens, one.used, one.memory, one.disk, scope) for (scope, name), one in held
        ]

    def drop(self, name: str | None, scope: str | None) -> list[Session]:
        """Forget this one, or all (None), whatever the scope (None); what was dropped."""
        dropped = [one for one in self.all() if name in (None, one.name) and scope in (None, one.scope)]
        for session in dropped:
            self._newest.pop((session.scope, session.name), None)
            gone = self._pins.drop(session.scope, session.name)
            if self._outgoing is not None:
                self._outgoing.drop(gone)
            if self._named is not None:
                self._named.drop(session.name, session.scope)
        return dropped
