"""What has ended since the last look: engines and downloads, each end written down once.

The ledger is the record; this knows which ends are in it already, so that an end which is seen twice, or
in a pass that then fails, counts once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from reconciler.actions import Action, CancelDownload, Download
from reconciler.backoff import STEADY_S, Ledger
from reconciler.choice import Desired
from reconciler.digests import own_digest
from reconciler.forms import download_key, form_named, form_of
from reconciler.observed import EngineObs, EngineState, Failure, ModelFiles, Observed
from reconciler.spec import Model, Spec

REMEMBERED = 256  # engines; far more than can have ended within one observation


@dataclass(frozen=True)
class Absorbed:
    ledger: Ledger
    quarantined: tuple[tuple[EngineObs, Failure], ...] = ()


class Endings:
    """fetching: downloads begun and not over, by digest; the loop keeps looking at their files."""

    def __init__(self) -> None:
        self.fetching: dict[str, Model] = {}
        self._files: dict[str, str] = {}  # engine -> fingerprint of its files when it was first seen
        self._ended: deque[str] = deque(maxlen=REMEMBERED)

    def begun(self, action: Action, model: Model | None) -> None:
        if isinstance(action, Download) and model is not None:
            self.fetching[action.digest] = model
        elif isinstance(action, CancelDownload):
            self.fetching.pop(action.digest, None)

    def absorb(self, ledger: Ledger, desired: Desired, spec: Spec, seen: Observed) -> Absorbed:
        """The ledger with what this observation adds. spec: as accepted, also while it is suspended."""
        ledger = self._fetched(ledger, seen)
        quarantined = []
        for engine in seen.engines:
            files = seen.files.get(engine.digest)
            self._files.setdefault(engine.id, files.fingerprint if files is not None else "")
            key = _key(engine, desired)
            if engine.state is EngineState.EXITED and engine.id not in self._ended:
                self._ended.append(engine.id)
                if engine.failure is not None:
                    before = ledger.get(key).quarantined
                    ledger = ledger.failed(key, engine.failure, seen.now, self._files[engine.id])
                    if ledger.get(key).quarantined and not before:
                        quarantined.append((engine, engine.failure))
            elif engine.state is EngineState.READY and seen.now - engine.since >= STEADY_S:
                ledger = ledger.steady(key, engine.since)
        here = {e.id for e in seen.engines}
        self._files = {ident: mark for ident, mark in self._files.items() if ident in here}
        if ledger.records:
            ledger = ledger.kept(_keys(desired, spec) | {e.own_digest for e in seen.engines})
        return Absorbed(ledger, tuple(quarantined))

    def _fetched(self, ledger: Ledger, seen: Observed) -> Ledger:
        for key, model in list(self.fetching.items()):
            files = seen.files.get(key)
            if files is None or files.state == "downloading":
                continue
            del self.fetching[key]
            if files.state == "present":
                ledger = ledger.cleared(download_key(model))
            else:
                ledger = ledger.failed(download_key(model), _fetch_failure(files), seen.now)
        return ledger


def _key(engine: EngineObs, desired: Desired) -> str:
    """Under which an engine's failures are counted: the words it was started from, while they are in use.

    An edit that the running engine took up in place has changed the words since: then those of now.
    """
    if form_named(desired, engine.model, engine.own_digest) is not None:
        return engine.own_digest
    form = form_of(engine, desired)
    return own_digest(form) if form is not None else engine.own_digest


def _keys(desired: Desired, spec: Spec) -> frozenset[str]:
    """Everything whose record still matters."""
    specs = [spec, desired.spec, *([desired.good] if desired.good is not None else [])]
    models = [m for one in specs for m in one.models.values()]
    return frozenset({own_digest(m) for m in models} | {download_key(m) for m in models})


def _fetch_failure(files: ModelFiles) -> Failure:
    return Failure("download_failed", files.message or "the download ended", permanent=files.permanent)
