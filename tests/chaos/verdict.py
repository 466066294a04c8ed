"""What must hold after the chaos. Each check yields a sentence for everything that does not."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.chaos.load import Record
from tests.chaos.watch import Sample, slope

MIB = 2**20
GROWTH_BYTES = 24 * MIB  # over the whole run, after warm-up
SPARE_HANDLES, SPARE_THREADS = 8, 2
WARM_UP = 0.2  # part of the run
SHOWN = 5


@dataclass
class Evidence:
    """down: spans of monotonic seconds in which /healthz was taken away on purpose."""

    records: list[Record]
    health: list[tuple[float, float, str | None]]
    samples: list[Sample]
    quiet_before: Sample
    quiet_after: Sample
    before: dict[str, str]
    after: dict[str, str]
    down: list[tuple[float, float]] = field(default_factory=list)


def failures(evidence: Evidence) -> list[str]:
    checks = (requests, texts, health, memory, handles, answers)
    return [sentence for check in checks for sentence in check(evidence)]


def within(down: Iterable[tuple[float, float]], begin: float, end: float) -> bool:
    return any(begin <= last and end >= first for first, last in down)


def requests(evidence: Evidence) -> Iterator[str]:
    """Each ended in tokens or a typed error; without an end at all only while LMX was down on purpose."""
    bad = [r for r in evidence.records if not r.typed and not within(evidence.down, r.begin, r.end)]
    for outcome, count in Counter(r.outcome for r in bad).most_common(SHOWN):
        message = next(r.message for r in bad if r.outcome == outcome)
        yield f"{count} requests ended in: {outcome} {message}"
    if not any(r.outcome == "ok" for r in evidence.records):
        yield "no request was answered at all"


def texts(evidence: Evidence) -> Iterator[str]:
    """Greedy: one model says one thing to one question, however the machine fares."""
    said: dict[tuple[str, str], set[str]] = defaultdict(set)
    for record in evidence.records:
        if record.outcome == "ok":
            said[record.model, record.key].add(record.text)
    different = {key: found for key, found in said.items() if len(found) > 1}
    for (model, key), found in list(different.items())[:SHOWN]:
        yield f"{model} gave {len(found)} different answers to {key[-120:]}: {sorted(found)[:2]}"


def health(evidence: Evidence) -> Iterator[str]:
    bad = [
        (at, wrong)
        for at, seconds, wrong in evidence.health
        if wrong is not None and not within(evidence.down, at, at + seconds)
    ]
    if bad:
        yield f"/healthz failed {len(bad)} times, first with {bad[0][1]}"
    if not evidence.health:
        yield "/healthz was never asked"


def memory(evidence: Evidence) -> Iterator[str]:
    """Bytes that grow with time would end any machine. Only the longest-lived parent can show that."""
    points = steady(evidence.samples)
    if len(points) < 20:
        return
    grown = slope(points) * (points[-1][0] - points[0][0])
    if grown > GROWTH_BYTES:
        yield f"the parent grew by {grown / MIB:.1f} MiB over the run (by its slope)"


def steady(samples: list[Sample]) -> list[tuple[float, float]]:
    """(seconds, bytes) of the parent that lived longest, without its warm-up."""
    if not samples:
        return []
    pid = Counter(s.pid for s in samples).most_common(1)[0][0]
    found = [(s.at, float(s.uss)) for s in samples if s.pid == pid]
    return found[int(len(found) * WARM_UP) :]


def handles(evidence: Evidence) -> Iterator[str]:
    """In the quiet afterwards as many as in the quiet before, give or take a few that are kept alive."""
    before, after = evidence.quiet_before, evidence.quiet_after
    if after.handles > before.handles + SPARE_HANDLES:
        yield f"open files and sockets: {before.handles} before, {after.handles} after"
    if after.threads > before.threads + SPARE_THREADS:
        yield f"threads: {before.threads} before, {after.threads} after"


def answers(evidence: Evidence) -> Iterator[str]:
    for question, text in evidence.before.items():
        if evidence.after.get(question) != text:
            yield f"{question!r} was answered {text!r} before and {evidence.after.get(question)!r} after"
