"""Question 2: in which form does a model run? Pure.

None, while a step of the ladder keeps the model out for want of memory. Else the spec's own form, unless
something is known against it: files that are broken, a failure that will repeat itself, a back-off that is
not over, quarantine. Then the form that ran before, if rollback is allowed. And a form that has failed, or
whose files are still to come, lets the one that ran come up first: what works is never kept waiting for what
may not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from reconciler.backoff import Ledger, Record
from reconciler.choice import LIVE, Blocked, Blocks, Choice, Desired, Wish
from reconciler.digests import digest, own_digest
from reconciler.observed import EngineObs, EngineState, ModelFiles, Observed
from reconciler.spec import Model

OOM_UNLOADED = "oom-unloaded"  # the API's error code
_FAR = {EngineState.READY: 0, EngineState.PROBING: 1, EngineState.LOADING: 2, EngineState.STARTING: 3}


def download_key(form: Model) -> str:
    """The key under which the ledger holds failures of fetching this form's files."""
    return f"download:{digest(form)}"


def forms(desired: Desired) -> Mapping[str, Model]:
    """Every form whose files matter, by digest. Of two with the same digest, the spec's."""
    models = list(desired.good.models.values()) if desired.good is not None else []
    models += desired.spec.models.values()
    return {digest(m): m for m in models}


def form_of(engine: EngineObs, desired: Desired) -> Model | None:
    """The form an engine runs, if the spec or what is known to run still has it."""
    for spec in (desired.spec, desired.good):
        form = spec.models.get(engine.model) if spec is not None else None
        if form is not None and digest(form) == engine.digest:
            return form
    return None


def form_named(desired: Desired, name: str, own: str) -> Model | None:
    """A model's form by the digest of its own fields."""
    for spec in (desired.spec, desired.good):
        form = spec.models.get(name) if spec is not None else None
        if form is not None and own_digest(form) == own:
            return form
    return None


def answering(seen: Observed, name: str | None) -> EngineObs | None:
    """The ready engine that the router gives requests for this model to, now or when it takes some again."""
    route = seen.table.routes.get(name) if name is not None else None
    if route is None or route.engine is None:
        return None
    return next((e for e in seen.engines if e.id == route.engine and e.state is EngineState.READY), None)


def outdated(engine: EngineObs, seen: Observed) -> bool:
    """The text of its template.file is another by now, and can be read."""
    files = seen.files.get(engine.digest)
    return files is not None and files.state == "present" and files.template != engine.template


@dataclass(frozen=True)
class Forms:
    """What is known for and against each form. blocks: found by later questions in this same decision.

    recycle: an engine that is to be replaced by another one of the very same form.
    """

    desired: Desired
    seen: Observed
    ledger: Ledger
    blocks: Blocks
    recycle: str | None = None

    def choose(self, wish: Wish) -> Choice:
        short = self.short_of_memory(wish.name)
        if short is not None:
            return Choice(wish.name, wish.why, None, blocked=short, hold=wish.hold, until=wish.until)
        choice = self._choose(wish)
        trial = choice.form is not None and not choice.fallback and self._on_trial(wish.name, choice.form)
        return replace(choice, hold=wish.hold, until=wish.until, holding=self._holding(choice), trial=trial)

    def engine(self, name: str, form: Model) -> EngineObs | None:
        """The live engine of this form; of two, the furthest along, then the one that answers already."""
        answers = answering(self.seen, name)
        mine = [
            e
            for e in self.seen.engines
            if e.model == name and e.digest == digest(form) and e.state in LIVE and e.id != self.recycle
        ]
        return min(mine, key=lambda e: (_FAR[e.state], e is not answers, e.since, e.id), default=None)

    def short_of_memory(self, name: str) -> Blocked | None:
        """It is out by a step that is in force, or may not come back yet."""
        strain = self.desired.strain
        found = strain.pressure
        due = found.returns_at if found.returns_at > self.seen.now else None
        if strain.out(name):
            why = f"{name} was taken out of memory: {found.why}; it returns when there is room"
            brief = "it was taken out of memory, which is short; it returns when there is room"
        elif name in strain.returning and due is not None and not self._runs(name):
            why = brief = "it was taken out of memory, which was short, and waits before it returns"
        else:
            return None
        return Blocked("OomUnloaded", OOM_UNLOADED, why, retry_at=due, waits=True, brief=brief)

    def usable(self, name: str, form: Model) -> bool:
        return (name, own_digest(form)) not in self.blocks and self._blockage(form) is None

    def may_run(self, name: str, form: Model, engine: EngineObs | None) -> bool:
        """It could be started; or it runs already, whatever happened to it before."""
        if engine is not None:
            return (name, own_digest(form)) not in self.blocks
        return self.usable(name, form)

    def incumbent(self, name: str) -> tuple[str, Model] | None:
        """What ran before the spec's own form of this model, and would run instead of it."""
        own = self._other_form(name)
        if own is not None and self.may_run(name, own, self.engine(name, own)):
            return name, own
        return self.before_active() if name == self.desired.spec.active else None

    def before_active(self) -> tuple[str, Model] | None:
        """The model that was active before the spec's, if that is another one and may come back."""
        good = self.desired.good
        name = good.active if good is not None and self.desired.spec.swap.rollback else None
        if good is None or name is None or name == self.desired.spec.active:
            return None
        form = good.models.get(name)
        return (name, form) if form is not None and self.desired.override(name) != "unload" else None

    def would_interrupt(self, form: Model) -> Blocked:
        return self._failed(
            form,
            "another try would interrupt the model that works, so it waits for an edit or `lmx reconcile`",
        )

    # --- inside --------------------------------------------------------------------------------------

    def _runs(self, name: str) -> bool:
        return any(e.model == name and e.state in LIVE for e in self.seen.engines)

    def _on_trial(self, name: str, form: Model) -> bool:
        """It has failed, and something that ran before is to be had: no risk is taken with that one."""
        return self._record(form).failures > 0 and self.incumbent(name) is not None

    def _choose(self, wish: Wish) -> Choice:
        name = wish.name
        form = self.desired.spec.models[name]
        engine = self.engine(name, form)
        blocked = self.blocks.get((name, own_digest(form)))
        if blocked is None and engine is not None:
            return Choice(name, wish.why, form, engine=engine)
        blocked = blocked or self._blockage(form) or self._gives_way(name, form)
        if blocked is None:
            return Choice(name, wish.why, form)
        good = self._other_form(name) or self._former_words(name, form)
        if good is not None:
            engine = self.engine(name, good)
            if self.may_run(name, good, engine):
                return Choice(name, wish.why, good, fallback=True, blocked=blocked, engine=engine)
            against = self.blocks.get((name, own_digest(good))) or self._blockage(good)
            return Choice(name, wish.why, None, blocked=blocked, former=against)
        return Choice(name, wish.why, None, blocked=blocked)

    def _other_form(self, name: str) -> Model | None:
        good = self.desired.good
        form = good.models.get(name) if good is not None and self.desired.spec.swap.rollback else None
        own = self.desired.spec.models.get(name)
        return form if form is not None and (own is None or digest(own) != digest(form)) else None

    def _former_words(self, name: str, form: Model) -> Model | None:
        """The very same engine as it was configured before: of use where only the new limits have no room."""
        good = self.desired.good
        old = good.models.get(name) if good is not None and self.desired.spec.swap.rollback else None
        if old is None or digest(old) != digest(form) or old == form:
            return None
        return old if (name, own_digest(form)) in self.blocks and self._blockage(form) is None else None

    def _holding(self, choice: Choice) -> EngineObs | None:
        """The engine of another form that answers for this model, until its successor is ready."""
        engine = answering(self.seen, choice.name)
        if engine is None or choice.ready:
            return None
        if choice.form is None and choice.blocked is not None:
            own = self.desired.spec.models[choice.name]
            given_up = choice.blocked.permanent and not self.desired.spec.swap.rollback
            if engine.digest == digest(own) or given_up:
                return None
        return engine

    def _gives_way(self, name: str, form: Model) -> Blocked | None:
        files = self.seen.files.get(digest(form))
        failed = self._record(form).failures > 0
        before = self.incumbent(name)
        if before is None or not (failed or _to_come(files)):
            return None
        engine = self.engine(*before)
        if engine is not None and engine == self._answers_for(name, before[0]):
            return None
        there = self.seen.files.get(digest(before[1]))
        startable = there is not None and there.state == "present" and self.usable(*before)
        if not startable and engine is None:
            return None
        if failed:
            return replace(self._failed(form, f"next try when {before[0]} is back"), waits=True)
        return Blocked(
            "Downloading", "model_swapping", f"its files are on their way; {before[0]} answers until then",
            waits=True,
        )  # fmt: skip

    def _answers_for(self, name: str, before: str) -> EngineObs | None:
        """The engine by which `before` answers for this model already."""
        if before != name and self.seen.table.active != before:
            return None
        return answering(self.seen, before)

    def _blockage(self, form: Model) -> Blocked | None:
        files = self.seen.files.get(digest(form))
        if files is not None and files.state == "broken" and files.permanent:
            return Blocked("ModelFilesBroken", "engine_failed", files.message or "its files are unusable")
        fetch = self.ledger.get(download_key(form))
        if fetch.failures and _to_fetch(files):
            said = files.message if files is not None and files.message else _last(fetch)
            if fetch.permanent:
                return Blocked("DownloadFailed", "engine_failed", said)
            if fetch.retry_at > self.seen.now:
                return self._backing_off(fetch, "DownloadFailed", said)
        record = self._record(form)
        if record.quarantined:
            return Blocked(
                "Quarantined",
                "engine_failed",
                f"quarantined after {len(record.crashes)} crashes in ten minutes (last: {_last(record)}); "
                "edit the model in the spec or run `lmx reconcile`",
            )
        if record.permanent:
            return self._failed(form, "")
        if record.failures and record.retry_at > self.seen.now:
            return self._backing_off(record, _reason(record), _last(record))
        return None

    def _record(self, form: Model) -> Record:
        """What this form has been through. Other files than those that failed deserve a fresh start."""
        record = self.ledger.get(own_digest(form))
        files = self.seen.files.get(digest(form))
        if files is None or files.state != "present" or record.fingerprint in ("", files.fingerprint):
            return record
        return replace(record, failures=0, retry_at=0.0)

    def _backing_off(self, record: Record, reason: str, said: str) -> Blocked:
        code = record.last.code if record.last is not None else "engine_failed"
        return Blocked(
            reason, code, f"{said}; failure {record.failures}, tried again", retry_at=record.retry_at
        )

    def _failed(self, form: Model, then: str) -> Blocked:
        record = self._record(form)
        code = record.last.code if record.last is not None else "engine_failed"
        return Blocked(_reason(record), code, "; ".join(filter(None, (_last(record), then))))


def _to_fetch(files: ModelFiles | None) -> bool:
    return files is not None and (
        files.state == "absent" or (files.state == "broken" and not files.permanent)
    )


def _to_come(files: ModelFiles | None) -> bool:
    return files is not None and (files.state == "downloading" or _to_fetch(files))


def _last(record: Record) -> str:
    return record.last.message if record.last is not None else "it failed"


def _reason(record: Record) -> str:
    return {
        "exit": "EngineExited",
        "crash": "EngineCrashed",
        "hang": "EngineHung",
        "load_failed": "LoadFailed",
        "probe_failed": "ProbeFailed",
        "oom": "OutOfMemory",
        "download_failed": "DownloadFailed",
    }.get(record.last.reason if record.last is not None else "", "EngineFailed")
