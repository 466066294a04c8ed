"""What happened, as typed records. The enum is the reference: one line says what each type means."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any


class EventType(StrEnum):
    """Each member carries its one-line meaning as `.doc`."""

    doc: str

    def __new__(cls, value: str, doc: str) -> EventType:
        member = str.__new__(cls, value)
        member._value_ = value
        member.doc = doc
        return member

    STARTED = "Started", "LMX started and took the lock of its state folder."
    STOPPED = "Stopped", "LMX was told to stop and drained."
    SPEC_ACCEPTED = "SpecAccepted", "New content was read and its meaning changed: a new generation."
    SPEC_UNCHANGED = "SpecUnchanged", "New content was read; its meaning is the same."
    SPEC_REJECTED = "SpecRejected", "New content has errors; the last good spec stays in force."
    SOURCE_FAILED = "SourceFailed", "The spec could not be read at all."
    SOURCE_RECOVERED = "SourceRecovered", "The spec can be read again."
    COMMIT_TAKEN = "CommitTaken", "A commit of the repository that is followed runs from now on."
    COMMIT_REFUSED = (
        "CommitRefused",
        "The newest commit may not run; the message tells why, and what ran goes on.",
    )
    APPLIED = "Applied", "A generation reached Ready and Synced: it is the last-known-good now."
    ACTION = "Action", "The loop began one step of the plan."
    ENGINE_READY = "EngineReady", "An engine loaded its model and answered its probe."
    WARMUP_FAILED = (
        "WarmupFailed",
        "A conversation of `warmup` could not be cached; the model serves all the same.",
    )
    ENGINE_STOPPED = "EngineStopped", "An engine ended because it was told to; the memory it gave back."
    ENGINE_FAILED = "EngineFailed", "An engine could not load, failed its probe, exited, crashed or hung."
    QUARANTINED = "Quarantined", "A model's engine crashed three times in ten minutes and is left alone."
    SWAPPED = "Swapped", "Requests for the active model go to another model or engine from now on."
    ROLLED_BACK = "RolledBack", "The spec's own form cannot run; the last good one answers."
    BLOCKED = "Blocked", "Something the spec asks for cannot be done now; the message says why."
    DOWNLOAD_STARTED = "DownloadStarted", "Missing files of a declared model are being fetched."
    DOWNLOAD_FINISHED = "DownloadFinished", "The files of a model are complete and checked."
    DOWNLOAD_FAILED = "DownloadFailed", "A download ended without its files."
    LISTENING = "Listening", "A public address is open."
    LISTEN_FAILED = "ListenFailed", "A public address could not be opened; the old one stays."
    OVERRIDE_SET = "OverrideSet", "An admin call laid a temporary override over the spec."
    OVERRIDE_CLEARED = "OverrideCleared", "An override ended: cleared, or what it overrode was edited."
    TRY_BEGAN = "TryBegan", "A spec is tried (`lmx try`, `lmx rollback`): by whom, how long, what differs."
    TRY_CONFIRMED = "TryConfirmed", "A tried spec has no deadline any more (`lmx confirm`)."
    TRY_ENDED = "TryEnded", "A try is over, and the file is what is asked for again; the message says why."
    PRESSURE = "Pressure", "The memory level or its cause changed; the figures are in the data."
    STEP_TAKEN = "StepTaken", "A step of the degradation ladder was taken, with the figures that forced it."
    STEP_UNDONE = "StepUndone", "A step of the degradation ladder was undone: there is room again."
    THERMAL = "Thermal", "Heat lowered the context ceilings, or they are back."
    ENGINE_RUNAWAY = (
        "EngineRunaway",
        "An engine used far more memory than it was let in for and was ended at once.",
    )
    SLO_STAGE = (
        "SloStage",
        "A model went over its service level, or is back inside: the stage and its figures.",
    )
    DRAINED = "Drained", "New sessions are turned away (`lmx drain`), or are taken again."
    BREAKER = "Breaker", "A circuit breaker around something that is not a model opened or closed."
    KEYS = "Keys", "The API keys were read anew, or could not be; the message tells which."
    SKILL_READY = "SkillReady", "A skill can be called: its process runs and tells what it offers."
    SKILL_FAILED = "SkillFailed", "A skill cannot be called; it is tried again by itself, and chat goes on."
    CONDITION = "Condition", "A status condition changed."
    RECONCILE_REQUESTED = "ReconcileRequested", "Somebody asked for everything to be tried anew."
    UPGRADED = "Upgraded", "Another version or profile has taken over, without a refused connection."
    UPGRADE_FAILED = "UpgradeFailed", "An upgrade or switch came to nothing; what served before serves on."
    LOOP_ERROR = "LoopError", "A pass of the loop failed; it goes on after a pause. Please report it."
    STATE_RESET = "StateReset", "The state database was unreadable; it was set aside and a new one begun."


@dataclass(frozen=True)
class Event:
    """at: wall clock, seconds since the epoch. id: grows by one, assigned by the store.

    kept: False for one of a storm, which the store counts and does not write down.
    """

    type: EventType
    message: str
    at: float
    id: int = 0
    data: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    kept: bool = True

    def as_dict(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "type": self.type.value,
            "at": self.at,
            "message": self.message,
            "data": dict(self.data),
        }
