"""What survives a restart: generations, the last good spec, failure records, overrides, events.

One SQLite file in the state folder, in WAL mode: a write is there whole or not at all, also after
`kill -9`. A file that cannot be read is set aside, never deleted, and a new one begun. Everything here
is called from the loop only, the single writer.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from reconciler.backoff import Ledger, Record
from reconciler.events import Event, EventType
from reconciler.observed import Failure, OverrideObs

SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, at REAL NOT NULL, type TEXT NOT NULL,
    message TEXT NOT NULL, data TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS events_at ON events (at);
CREATE TABLE IF NOT EXISTS generations (
    generation INTEGER PRIMARY KEY, digest TEXT NOT NULL, content_digest TEXT NOT NULL,
    at REAL NOT NULL, applied_at REAL, text BLOB NOT NULL
);
"""
KEPT_GENERATIONS = 100


@dataclass(frozen=True)
class Generation:
    """text: the bytes of the file, environment references unexpanded, so no secret is in it."""

    generation: int
    digest: str
    content_digest: str
    at: float
    applied_at: float | None
    text: bytes


class History:
    """Raises sqlite3.Error or OSError where the disk fails; the loop reports that and goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: Path | None = None
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._db = self._open()
        except sqlite3.DatabaseError:
            self.set_aside = path.with_name(f"{path.name}.damaged-{int(time.time())}")
            os.replace(path, self.set_aside)
            for suffix in ("-wal", "-shm"):
                path.with_name(path.name + suffix).unlink(missing_ok=True)
            self._db = self._open()

    def _open(self) -> sqlite3.Connection:
        new = not self.path.exists()
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            if new:
                self.path.chmod(0o600)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA busy_timeout=1000")
            if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check failed")
            db.executescript(SCHEMA)
        except sqlite3.DatabaseError:
            db.close()
            raise
        return db

    def close(self) -> None:
        self._db.close()

    # --- events ---------------------------------------------------------------------------------

    def add_event(self, event: Event) -> Event:
        """The event with its id."""
        cursor = self._db.execute(
            "INSERT INTO events (at, type, message, data) VALUES (?, ?, ?, ?)",
            (event.at, event.type.value, event.message, json.dumps(dict(event.data), default=str)),
        )
        return Event(event.type, event.message, event.at, int(cursor.lastrowid or 0), event.data)

    def events(self, after: int = 0, limit: int = 100) -> list[Event]:
        """The newest `limit` events after this id, oldest first."""
        rows = self._db.execute(
            "SELECT id, at, type, message, data FROM events WHERE id > ? ORDER BY id DESC LIMIT ?",
            (after, limit),
        ).fetchall()
        known = {t.value: t for t in EventType}
        return [
            Event(known[kind], message, at, ident, MappingProxyType(json.loads(data)))
            for ident, at, kind, message, data in reversed(rows)
            if kind in known
        ]

    def prune(self, older_than: float) -> int:
        """Delete events from before this wall-clock time; how many went."""
        count = self._db.execute("DELETE FROM events WHERE at < ?", (older_than,)).rowcount
        self._db.execute(
            "DELETE FROM generations WHERE generation <= (SELECT MAX(generation) FROM generations) - ? "
            "AND applied_at IS NULL",
            (KEPT_GENERATIONS,),
        )
        return count

    # --- generations ----------------------------------------------------------------------------

    def add_generation(self, generation: Generation) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO generations VALUES (?, ?, ?, ?, ?, ?)",
            (
                generation.generation,
                generation.digest,
                generation.content_digest,
                generation.at,
                generation.applied_at,
                generation.text,
            ),
        )

    def mark_applied(self, generation: int, at: float) -> None:
        self._db.execute("UPDATE generations SET applied_at = ? WHERE generation = ?", (at, generation))

    def newest(self) -> Generation | None:
        return self._one("ORDER BY generation DESC LIMIT 1")

    def last_good(self) -> Generation | None:
        """The one that reached Ready last."""
        return self._one("WHERE applied_at IS NOT NULL ORDER BY applied_at DESC LIMIT 1")

    def generations(self, limit: int = 20) -> list[Generation]:
        return self._many(f"ORDER BY generation DESC LIMIT {int(limit)}")

    def _one(self, tail: str) -> Generation | None:
        return next(iter(self._many(tail)), None)

    def _many(self, tail: str) -> list[Generation]:
        rows = self._db.execute(
            f"SELECT generation, digest, content_digest, at, applied_at, text FROM generations {tail}"
        ).fetchall()
        return [Generation(g, d, c, at, applied, bytes(text)) for g, d, c, at, applied, text in rows]

    # --- small state ----------------------------------------------------------------------------

    def _set(self, key: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def _get(self, key: str) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return json.loads(row[0]) if row else None

    def save_ledger(self, ledger: Ledger, offset: float) -> None:
        """offset: wall clock minus the loop's clock, seconds."""
        self._set("ledger", {k: asdict(r) for k, r in ledger.shifted(offset).records.items()})

    def load_ledger(self, offset: float) -> Ledger:
        raw = self._get("ledger") or {}
        return Ledger(MappingProxyType({k: _record(r) for k, r in raw.items()})).shifted(-offset)

    def save_overrides(self, overrides: tuple[OverrideObs, ...]) -> None:
        self._set("overrides", [asdict(o) for o in overrides])

    def load_overrides(self) -> tuple[OverrideObs, ...]:
        return tuple(OverrideObs(**o) for o in self._get("overrides") or [])

    def next_engine_number(self) -> int:
        """A number no engine of this state folder has had."""
        number = int(self._get("engine_number") or 0) + 1
        self._set("engine_number", number)
        return number


def _record(raw: Mapping[str, Any]) -> Record:
    last = raw.get("last")
    return Record(
        failures=int(raw["failures"]),
        crashes=tuple(raw["crashes"]),
        last=Failure(**last) if last else None,
        last_at=float(raw["last_at"]),
        fingerprint=str(raw["fingerprint"]),
        retry_at=float(raw["retry_at"]),
    )
