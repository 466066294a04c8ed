"""Retry delays, and the record of what went wrong that they are computed from. Pure.

The record (`Ledger`) is keyed by the digest of a model's own fields, so an edit to that model starts
with a clean slate and an edit to another one does not. The loop stores it; counters survive a restart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from reconciler.observed import Failure

FIRST_S = 0.5
CAP_S = 300.0
QUARANTINE_CRASHES = 3
QUARANTINE_WINDOW_S = 600.0
# An engine that stayed up this long has earned a fresh count of consecutive failures.
STEADY_S = 60.0

# Ends that are the engine's own doing while it ran. Load and probe failures retry or stall instead.
CRASHES = frozenset({"exit", "crash", "hang", "oom"})


def delay(key: str, failures: int) -> float:
    """Seconds before try number `failures + 1`: exponential, capped, with +-20 % of jitter.

    The jitter comes from the key and the count, so planning stays a pure function.
    """
    if failures <= 0:
        return 0.0
    base = min(CAP_S, FIRST_S * 2.0 ** min(failures - 1, 30))
    spread = hashlib.sha256(f"{key}:{failures}".encode()).digest()[0] / 255.0
    return base * (0.8 + 0.4 * spread)


@dataclass(frozen=True)
class Record:
    """What one model, as the spec words it now, has been through. Times: the loop's clock, seconds."""

    failures: int = 0  # in a row
    crashes: tuple[float, ...] = ()
    last: Failure | None = None
    last_at: float = 0.0
    fingerprint: str = ""  # of the files at the last failure
    retry_at: float = 0.0

    @property
    def quarantined(self) -> bool:
        return len(self.crashes) >= QUARANTINE_CRASHES

    @property
    def permanent(self) -> bool:
        return self.last is not None and self.last.permanent and self.failures > 0


@dataclass(frozen=True)
class Ledger:
    records: Mapping[str, Record] = field(default_factory=lambda: MappingProxyType({}))

    def get(self, key: str) -> Record:
        return self.records.get(key, Record())

    def failed(self, key: str, failure: Failure, now: float, fingerprint: str = "") -> Ledger:
        old = self.get(key)
        crashes = old.crashes
        if failure.reason in CRASHES and not old.quarantined:
            crashes = (*(t for t in crashes if now - t < QUARANTINE_WINDOW_S), now)
        failures = old.failures + 1
        return self._with(
            key,
            Record(
                failures=failures,
                crashes=crashes,
                last=failure,
                last_at=now,
                fingerprint=fingerprint,
                retry_at=now + delay(key, failures),
            ),
        )

    def steady(self, key: str, since: float) -> Ledger:
        """An engine that is ready since then runs well: the next failure is the first again.

        Not if something failed after it was ready: that was another engine of the very same fields.
        Crashes stay for their window.
        """
        old = self.records.get(key)
        if old is None or old.failures == 0 or old.last_at > since:
            return self
        return self._with(key, replace(old, failures=0, retry_at=0.0))

    def cleared(self, key: str | None = None) -> Ledger:
        """Forget one record, or all: what `lmx reconcile` asks for."""
        if key is None:
            return Ledger()
        return Ledger(MappingProxyType({k: v for k, v in self.records.items() if k != key}))

    def kept(self, keys: frozenset[str]) -> Ledger:
        """Only these keys, so that the record does not grow with every edit ever made."""
        if all(k in keys for k in self.records):
            return self
        return Ledger(MappingProxyType({k: v for k, v in self.records.items() if k in keys}))

    def shifted(self, seconds: float) -> Ledger:
        """The same record on another clock: monotonic clocks start anew with each process."""
        return Ledger(
            MappingProxyType(
                {
                    k: replace(
                        r,
                        crashes=tuple(t + seconds for t in r.crashes),
                        last_at=r.last_at + seconds,
                        retry_at=r.retry_at + seconds,
                    )
                    for k, r in self.records.items()
                }
            )
        )

    def clamped(self, now: float) -> Ledger:
        """Nothing later than a clock that goes right allows: a wall clock may have been set back."""
        latest = now + CAP_S * 1.2
        records = {
            k: replace(
                r,
                crashes=tuple(min(t, now) for t in r.crashes),
                last_at=min(r.last_at, now),
                retry_at=min(r.retry_at, latest),
            )
            for k, r in self.records.items()
        }
        return Ledger(MappingProxyType(records))

    def _with(self, key: str, record: Record) -> Ledger:
        return Ledger(MappingProxyType({**self.records, key: record}))
