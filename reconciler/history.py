"""What survives a restart: generations, the last good spec, failure records, overrides, events.

One SQLite file in the state folder, in WAL mode: a write is there whole or not at all, also after
`kill -9`. A file that cannot be read is set aside, never deleted, and a new one begun. Everything here
is called from the loop only, the single writer.
"""

from __future__ import annotations

import itertools
import json
import logging
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
from reconciler.gate import Accepted
from reconciler.known import Known
from reconciler.observed import Failure, OverrideObs

log = logging.getLogger("lmx.state")

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
# What the queries below need; a damaged schema may still pass for one.
COLUMNS = (
    "key, value FROM meta",
    "id, at, type, message, data FROM events",
    "generation, digest, content_digest, at, applied_at, text FROM generations",
)
FORMAT = 1  # of the tables, in `user_version`; 0 was written by versions that did not say
KEPT_GENERATIONS = 100
KEPT_EVENTS = 200_000
AT_ONCE = 5_000  # events deleted in one go: 10 ms


@dataclass(frozen=True)
class Generation:
    """text: the bytes of the file, environment references unexpanded, so no secret is in it."""

    generation: int
    digest: str
    content_digest: str
    at: float
    applied_at: float | None
    text: bytes


class TooNew(sqlite3.Error):
    """The database has a form that only a later version knows. The message says what to do."""

    sqlite_errorcode = sqlite3.SQLITE_READONLY  # to be left as it is


class History:
    """Raises sqlite3.Error or OSError where the disk fails; the loop reports that and goes on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: Path | None = None
        self._copied = 0  # of a copy: the newest event that was there
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._db = self._open()
        except (sqlite3.Error, UnicodeDecodeError) as error:
            if not _is_damage(error):
                raise
            self.set_aside = self._put_aside()
            self._db = self._open()

    def _put_aside(self) -> Path:
        """The damaged file and what belongs to it, under a name that is free."""
        stem = f"{self.path.name}.damaged-{int(time.time())}"
        names = itertools.chain([stem], (f"{stem}-{n}" for n in itertools.count(2)))
        aside = next(p for name in names if not (p := self.path.with_name(name)).exists())
        os.replace(self.path, aside)
        for suffix in ("-wal", "-shm"):
            beside = self.path.with_name(self.path.name + suffix)
            if beside.exists():
                os.replace(beside, aside.with_name(aside.name + suffix))
        return aside

    def _open(self) -> sqlite3.Connection:
        new = not self.path.exists()
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False)
        try:
            if new:
                self.path.chmod(0o600)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            db.execute("PRAGMA busy_timeout=1000")
            _check_format(db, self.path)
            if db.execute("PRAGMA quick_check").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("quick_check failed")
            db.executescript(SCHEMA)
            for columns in COLUMNS:
                db.execute(f"SELECT {columns} LIMIT 1").fetchall()
            if db.execute("PRAGMA user_version").fetchone()[0] != FORMAT:
                db.execute(f"PRAGMA user_version={FORMAT}")
        except (sqlite3.Error, UnicodeDecodeError):
            db.close()
            raise
        db.text_factory = _text
        return db

    def close(self) -> None:
        self._db.close()

    # --- taking over --------------------------------------------------------------------------------

    @classmethod
    def copy(cls, path: Path) -> History:
        """What another process writes, as it is now, in memory: nothing goes to disk until `settle`.

        Raises sqlite3.Error where it cannot be read, or is of a later version.
        """
        found = cls.__new__(cls)
        found.path, found.set_aside = path, None
        disk = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        found._db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        try:
            disk.execute("PRAGMA busy_timeout=1000")
            _check_format(disk, path)
            disk.backup(found._db)
            found._db.executescript(SCHEMA)
        except (sqlite3.Error, UnicodeDecodeError):
            found._db.close()
            raise
        finally:
            disk.close()
        found._db.text_factory = _text
        found._copied = int(found._db.execute("SELECT COALESCE(MAX(id), 0) FROM events").fetchone()[0])
        return found

    def settle(self) -> None:
        """Of a copy: from now on the database is the one on disk, with the events since added to it."""
        since = self.events(self._copied, limit=KEPT_EVENTS)
        disk = self._open()
        self._db.close()
        self._db = disk
        for event in since:
            self.add_event(event)

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
        return [event for row in reversed(rows) if (event := _event(row)) is not None]

    def prune(self, older_than: float, keep: int = KEPT_EVENTS) -> int:
        """Delete events from before this wall-clock time, all but the newest `keep`, and old generations.

        How many events went; AT_ONCE: there may be more, call again.
        """
        count = 0
        for which, bound in (("at < ?", older_than), ("id <= (SELECT MAX(id) FROM events) - ?", keep)):
            some = f"SELECT id FROM events WHERE {which} LIMIT ?"  # by an index each
            gone = self._db.execute(f"DELETE FROM events WHERE id IN ({some})", (bound, AT_ONCE - count))
            count += gone.rowcount
        known = self.known_generations()[1].values()
        good = self.last_good()
        held = self.in_force_when_suspended()
        wanted = sorted({*known, *(g.generation for g in (good, held) if g is not None)})
        marks = ", ".join("?" * len(wanted))
        self._db.execute(
            "DELETE FROM generations WHERE generation <= (SELECT MAX(generation) FROM generations) - ? "
            f"AND generation NOT IN ({marks})",
            (KEPT_GENERATIONS, *wanted),
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

    def accepted(self, accepted: Accepted, at: float) -> None:
        """`loop.Store`: a new generation is in force."""
        self.add_generation(
            Generation(accepted.generation, accepted.digest, accepted.content_digest, at, None, accepted.text)
        )

    def applied(self, generation: int, at: float) -> None:
        """`loop.Store`: this one reached Ready."""
        self.mark_applied(generation, at)

    def mark_applied(self, generation: int, at: float) -> None:
        self._db.execute("UPDATE generations SET applied_at = ? WHERE generation = ?", (at, generation))

    def newest(self) -> Generation | None:
        return self._one("ORDER BY generation DESC LIMIT 1")

    def last_good(self) -> Generation | None:
        """The one that reached Ready last. By number: wall clocks are set back at times."""
        return self._one("WHERE applied_at IS NOT NULL ORDER BY generation DESC LIMIT 1")

    def in_force_when_suspended(self) -> Generation | None:
        """What `lmx suspend` holds; None where nothing is suspended, or nothing was in force then."""
        call = next((o for o in self.load_overrides() if o.kind == "suspend"), None)
        found = (
            self._many("WHERE digest = ? ORDER BY generation DESC LIMIT 1", (call.spec_digest,))
            if call
            else []
        )
        return next(iter(found), None)

    def generation(self, number: int) -> Generation | None:
        return next(iter(self._many("WHERE generation = ?", (number,))), None)

    def generations(self, limit: int = 20) -> list[Generation]:
        return self._many(f"ORDER BY generation DESC LIMIT {int(limit)}")

    def _one(self, tail: str) -> Generation | None:
        return next(iter(self._many(tail)), None)

    def _many(self, tail: str, values: tuple[int | str, ...] = ()) -> list[Generation]:
        rows = self._db.execute(
            f"SELECT generation, digest, content_digest, at, applied_at, text FROM generations {tail}", values
        ).fetchall()
        return [Generation(*row) for row in rows if _is_generation(row)]

    # --- small state ----------------------------------------------------------------------------

    def _set(self, key: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    def _get(self, key: str) -> Any:
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        try:
            return json.loads(row[0]) if row else None
        except ValueError as error:
            log.warning("%s in %s cannot be used: %s", key, self.path, error)
            return None

    def save_ledger(self, ledger: Ledger, offset: float) -> None:
        """offset: wall clock minus the loop's clock, seconds."""
        self._set("ledger", {k: asdict(r) for k, r in ledger.shifted(offset).records.items()})

    def load_ledger(self, offset: float) -> Ledger:
        raw = self._get("ledger") or {}
        try:
            records = {k: _record(r) for k, r in raw.items()}
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            log.warning("the failure counters in %s cannot be used: %s", self.path, error)
            return Ledger()
        return Ledger(MappingProxyType(records)).shifted(-offset)

    def save_overrides(self, overrides: tuple[OverrideObs, ...]) -> None:
        self._set("overrides", [asdict(o) for o in overrides])

    def load_overrides(self) -> tuple[OverrideObs, ...]:
        try:
            return tuple(OverrideObs(**o) for o in self._get("overrides") or [])
        except TypeError as error:
            log.warning("the overrides in %s cannot be used: %s", self.path, error)
            return ()

    def save_known(self, known: Known) -> None:
        """Which generation has each form that is known to run; the words are those of the generation."""
        forms = {name: form.generation for name, form in known.forms.items()}
        self._set("known", {"active": known.active, "forms": forms})

    def known_generations(self) -> tuple[str | None, dict[str, int]]:
        """The newest `active` that answered, and for each model the generation of its form."""
        raw = self._get("known") or {}
        try:
            active, forms = raw.get("active"), {str(k): int(n) for k, n in (raw.get("forms") or {}).items()}
        except (AttributeError, TypeError, ValueError) as error:
            log.warning("what is known to run in %s cannot be used: %s", self.path, error)
            return None, {}
        return (active if isinstance(active, str) else None), forms

    def next_engine_number(self) -> int:
        """A number no engine of this state folder has had."""
        found = self._get("engine_number")
        number = (found if isinstance(found, int) else 0) + 1
        self._set("engine_number", number)
        return number


# Errors that say nothing about the content: a lock, a right, a full or failing disk. Those heal.
_OUTSIDE = frozenset(
    (
        *(sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR),
        *(sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM),
        *(sqlite3.SQLITE_INTERRUPT, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_NOLFS),
    )
)


def _is_damage(error: Exception) -> bool:
    """Whether the content itself is unreadable."""
    code = getattr(error, "sqlite_errorcode", None)
    return code is None or code & 0xFF not in _OUTSIDE


def _check_format(db: sqlite3.Connection, path: Path) -> None:
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > FORMAT:
        raise TooNew(
            f"{path} was written by a later LMX (its form is {found}, this version knows {FORMAT}); use that "
            "version, or give this one a state.path of its own"
        )


def _text(stored: bytes) -> str:
    """Damaged bytes inside one value must not hide all the others."""
    return stored.decode("utf-8", "replace")


_KNOWN: Mapping[Any, EventType] = {t.value: t for t in EventType}


def _event(row: tuple[Any, ...]) -> Event | None:
    """None for one that is damaged, or that a later version wrote."""
    ident, at, kind, message, data = row
    try:
        parsed = json.loads(data)
        if isinstance(at, (int, float)) and isinstance(message, str) and isinstance(parsed, dict):
            return Event(_KNOWN[kind], message, at, ident, MappingProxyType(parsed))
    except (KeyError, TypeError, ValueError):
        pass  # the same as any other value that no version ever wrote
    return None


def _is_generation(row: tuple[Any, ...]) -> bool:
    kinds: tuple[Any, ...] = (int, str, str, (int, float), (int, float, type(None)), bytes)
    return all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=True))


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
