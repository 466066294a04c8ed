"""Random pushes against a machine that serves: it ends on the newest acceptable commit, and no request fails.

    push ─┬─ a burst: good, bad, unsigned, forbidden, reverted; looks race with it, swaps are under way
          ├─ a rewritten branch: alone, between two looks that came to an end
          └─ the remote is away for a while
    after each: what runs is what a model of the branch says

In a burst nobody knows which head a look finds, and it does not matter: the outcome is a fact of the branch.
A rewrite does depend on what was seen before it, so looks come to an end on either side of one.
"""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.e2e.machine import MINI, Machine
from tests.gitops.remote import Remote

ACTIVE = ("one", "two")
# weight, what is wrong with it; "" is good
KINDS = (
    (30, ""),
    (8, "swap"),
    (8, "reverted"),
    (6, "text"),
    (6, "key"),
    (6, "active"),
    (6, "forbidden"),
    (8, "unsigned"),
    (6, "stranger"),
)
REWRITE, PUT_BACK, AWAY = 0.12, 0.8, 0.03
LOOK_S = 90.0


@dataclass(frozen=True)
class Commit:
    parent: str | None
    good: bool
    name: str
    active: str


@dataclass
class Callers:
    """Requests one after another on some threads; every answer that is not whole is kept."""

    machine: Machine
    answered: int = 0
    failed: list[str] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    def start(self, count: int) -> None:
        self._threads = [threading.Thread(target=self._call) for _ in range(count)]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        while not self._stop.wait(0.05):
            try:
                status, body = self.machine.ask("Say a word.", max_tokens=4)
            except OSError as error:
                self.failed.append(repr(error))
                continue
            if status == 200 and body["choices"][0]["finish_reason"] in ("stop", "length"):
                self.answered += 1
            else:
                self.failed.append(f"{status} {body}")


class Campaign:
    """`run(pushes)` raises AssertionError where the machine is anywhere but where the model says."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)
        self.remote, self.machine = Remote(folder / "remote"), Machine(folder)
        self.remote.keys()
        self.commits: dict[str, Commit] = {}
        self.taken = ""
        self.pushes = 0
        self.counts: dict[str, int] = {}
        self.callers = Callers(self.machine)

    def up(self) -> None:
        self.push("")
        source = {"source": str(MINI), "sampling": {"temperature": 0}, "concurrency": 4, "context": 512}
        verify = {"allowed_signers": str(self.remote.signers)}
        git = {"url": self.remote.url, "interval": "1h", "verify": verify}
        models = {"one": source, "two": {**source, "context": 256}}
        self.machine.up(self.machine.spec(active=None, models=models, git=git), wait=False)
        self.taken = self.remote.head()
        self.machine.until(lambda s: s["source"]["revision"] == self.taken and s["summary"] == "Ready")

    def run(self, pushes: int) -> None:
        self.callers.start(2)
        try:
            while self.pushes < pushes:
                self._turn()
            self.push("")  # whatever came before: the branch ends well, where it may
            self._settle()
            self._ended()
        finally:
            self.callers.stop()
        assert not self.callers.failed, self.callers.failed[:5]
        assert self.callers.answered

    # --- one turn ------------------------------------------------------------------------------------

    def _turn(self) -> None:
        if self.random.random() < AWAY:
            self._away()
        elif self.random.random() < REWRITE:
            self._settle()
            self._rewrite()
        else:
            for _ in range(self.random.randint(1, 4)):
                self.push(self._kind())
                if self.random.random() < 0.5:
                    self._ask()  # a look races with the next push
            if self.random.random() < 0.6:
                self._settle()

    def _kind(self) -> str:
        return self.random.choices([kind for _, kind in KINDS], [weight for weight, _ in KINDS])[0]

    def push(self, kind: str, *, force: bool = False) -> None:
        self.pushes += 1
        self.counts[kind or "good"] = self.counts.get(kind or "good", 0) + 1
        parent = self.remote.head() if self.commits else None
        before = self.commits[parent] if parent is not None else None
        name, active = f"push-{self.pushes}", before.active if before is not None else ACTIVE[0]
        spec: dict[str, Any] = {"version": 1, "name": name, "models": {}}
        if kind == "swap":
            active = ACTIVE[1 - ACTIVE.index(active)]
        elif kind == "reverted" and before is not None and before.parent is not None:
            name, active = self.commits[before.parent].name, self.commits[before.parent].active
            spec["name"] = name
        spec["active"] = "nobody" if kind == "active" else active
        if kind == "key":
            spec["colour"] = "red"
        elif kind == "forbidden":
            spec["skills"] = {"shell": {"python": "os:system"}}
        text = "{[" if kind == "text" else yaml.safe_dump(spec)
        by = None if kind == "unsigned" else "bob" if kind == "stranger" else "ann"
        commit = self.remote.commit({"lmx.yaml": text}, by=by, message=f"{self.pushes} {kind}")
        self.commits[commit] = Commit(parent, kind in ("", "swap", "reverted"), name, active)
        self.remote.push(force=force)

    def _rewrite(self) -> None:
        """The branch is put on an older commit and goes on from there; mostly it is put right again."""
        line = self._line(self.remote.head())
        self.remote.reset(self.random.choice(line[:6]))
        self.push("", force=True)
        self.counts["rewritten"] = self.counts.get("rewritten", 0) + 1
        self._settle()
        if self.taken not in self._line(self.remote.head()) and self.random.random() < PUT_BACK:
            self.remote.reset(self.taken)
            self.push("", force=True)
            self._settle()

    def _away(self) -> None:
        self._settle()
        self.remote.offline()
        self.counts["away"] = self.counts.get("away", 0) + 1
        self._ask()
        status = self.machine.until(lambda s: _condition(s, "SourceReady")["reason"] == "GitUnreachable")
        assert status["source"]["revision"] == self.taken
        self.remote.online()
        self._settle()
        assert _condition(self.machine.status(), "SourceReady")["reason"] != "GitUnreachable"

    # --- what must be so -----------------------------------------------------------------------------

    def _line(self, commit: str | None) -> list[str]:
        found = []
        while commit is not None:
            found.append(commit)
            commit = self.commits[commit].parent
        return found

    def _expected(self) -> str:
        line = self._line(self.remote.head())
        if self.taken not in line:
            return self.taken
        after = line[: line.index(self.taken)]
        return next((commit for commit in after if self.commits[commit].good), self.taken)

    def _ask(self) -> None:
        status, body = self.machine.call("POST", "/admin/reconcile")
        assert status == 200, body

    def _settle(self) -> None:
        """A look that began after the last push has come to an end; the machine is where the model says."""
        head, began, asked = self.remote.head(), time.time(), 0.0
        end = time.monotonic() + LOOK_S
        while True:
            if time.monotonic() >= asked:
                self._ask()
                asked = time.monotonic() + 5.0
            source = self.machine.status()["source"]
            if source["head"] == head and (source["last_checked"] or 0) > began:
                break
            assert time.monotonic() < end, f"{source}\n{self.machine.tail()}"
            time.sleep(0.02)
        self.taken = self._expected()
        status = self.machine.until(
            lambda s: s["source"]["revision"] == self.taken and s["name"] == self.commits[self.taken].name
        )
        assert status["source"]["head"] == head
        if self.taken != head:
            assert _condition(status, "Synced")["status"] == "False"
            assert _condition(status, "SourceReady")["status"] == "False"

    def _ended(self) -> None:
        wanted = self.commits[self.taken]
        status = self.machine.until(
            lambda s: s["active"]["actual"] == wanted.active and s["name"] == wanted.name and not s["plan"]
        )
        synced = _condition(status, "Synced")
        assert (synced["status"] == "True") == (self.taken == self.remote.head()), synced


def _condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    found: dict[str, Any] = next(c for c in status["conditions"] if c["type"] == kind)
    return found
