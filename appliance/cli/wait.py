"""`lmx wait`: for scripts that deploy. Returns when the appliance is where it should be, or says why not."""

from __future__ import annotations

import hashlib
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.client import Appliance, NotRunning
from appliance.cli.failure import REJECTED, TIMED_OUT, CliError
from appliance.cli.options import DEFAULT_FILE, File, Url
from appliance.cli.spec_file import content
from appliance.cli.terminal import Busy, busy, line, show

EVERY = 0.2  # seconds between two looks
FINAL_FAILURES = frozenset({"rejected", "invalid", "refused", "failed", "rolled_back"})


@dataclass(frozen=True)
class Goal:
    """The condition has this status; with a digest, the content with that SHA-256 is also what runs.

    commit: the beginning of the one that must be what runs, of a machine that follows Git.
    """

    condition: str
    status: str
    digest: str | None = None
    commit: str | None = None

    def __str__(self) -> str:
        return f"{self.condition}={self.status}"


def wait(
    goal: Annotated[
        str,
        typer.Option("--for", metavar="CONDITION[=STATUS]", help="Such as Ready, Synced or Degraded=False."),
    ] = "Ready",
    digest: Annotated[
        str | None,
        typer.Option(
            metavar="SHA256|COMMIT|file",
            help="Also wait until the content with this SHA-256, or this commit, is what runs; "
            "`file` takes that of FILE.",
        ),
    ] = None,
    timeout: Annotated[str, typer.Option(metavar="DURATION", help="Such as 90s or 15m.")] = "5m",
    file: File = DEFAULT_FILE,
    url: Url = None,
) -> None:
    """Wait until the appliance reaches a condition.

    Also waits for an appliance that is still starting. Exit status: 0 reached, 1 error, 3 the time
    ran out, 4 that content was rejected or replaced, so that waiting longer cannot help.
    """
    wanted = _goal(goal, digest, file)
    seconds = _seconds(timeout)
    with connect(file, url) as appliance, busy(f"Waiting for {wanted} ...") as spinner:
        document = _watch(appliance, wanted, seconds, spinner)
    show(line(f"{wanted}, generation {document.get('generation')}", symbol=("✓", "green")))


def _watch(appliance: Appliance, goal: Goal, seconds: float, spinner: Busy) -> Mapping[str, Any]:
    """Look until the goal is reached; the status document that says so."""
    deadline = time.monotonic() + seconds
    seen = False
    while True:
        try:
            document = appliance.get("/status")
        except NotRunning as error:
            why = error.message
        else:
            why = unmet(goal, document, seen_before=seen)
            if not why:
                return document  # type: ignore[no-any-return]
            seen = seen or _attempted(document).get("content_digest") == goal.digest
        if time.monotonic() >= deadline:
            raise CliError(f"{goal} was not reached in {wording.duration(seconds)}: {why}", TIMED_OUT)
        spinner.say(f"Waiting for {goal}: {why}")
        time.sleep(EVERY)


def unmet(goal: Goal, document: Mapping[str, Any], *, seen_before: bool = False) -> str:
    """Why the goal is not reached, or nothing. Raises CliError where waiting longer cannot help."""
    conditions = {str(c["type"]).lower(): c for c in document.get("conditions") or []}
    if conditions and goal.condition.lower() not in conditions:
        known = ", ".join(c["type"] for c in conditions.values())
        raise CliError(f"there is no condition {goal.condition!r}; there are: {known}.")
    if goal.digest is not None:
        why = _not_applied(goal.digest, document, seen_before)
        if why:
            stalled = conditions.get("stalled", {})
            ours = _attempted(document).get("content_digest") == goal.digest
            looked_at = stalled.get("observed_generation", 0) >= (document.get("generation") or 0)
            if ours and looked_at:
                _check_stalled(stalled)
            return why
    if goal.commit is not None:
        why = _not_taken(goal.commit, document)
        if why:
            return why
    wanted = [(goal.condition, goal.status)]
    if goal.digest is not None or goal.commit is not None:
        wanted.append(("Synced", "True"))  # Ready alone holds while the old model still answers
    for kind, status in wanted:
        found = conditions.get(kind.lower())
        if found is None or found.get("observed_generation", 0) < (document.get("generation") or 0):
            return "the newest generation has not been looked at yet"
        if found["status"] != status:
            if goal.digest is not None or goal.commit is not None:
                _check_stalled(conditions.get("stalled", {}))
            return f"{found['type']} is {found['status']}: {found.get('message') or found.get('reason')}"
    return ""


def _check_stalled(stalled: Mapping[str, Any]) -> None:
    if stalled.get("status") == "True":
        raise CliError(f"that content cannot run: {stalled.get('message')}", REJECTED)


def _not_applied(digest: str, document: Mapping[str, Any], seen_before: bool) -> str:
    attempted = _attempted(document)
    if attempted.get("content_digest") != digest:
        if seen_before:
            raise CliError("newer content has replaced the one that was waited for.", REJECTED)
        return "that content has not been seen yet"
    outcome = str(attempted.get("outcome") or "")
    reason = str(attempted.get("message") or "")
    if outcome in FINAL_FAILURES:
        raise CliError(
            f"that content was {outcome.replace('_', ' ')}: {reason or 'see lmx status'}", REJECTED
        )
    return "" if outcome == "applied" else reason or f"it is {outcome.replace('_', ' ') or 'being looked at'}"


def _not_taken(commit: str, document: Mapping[str, Any]) -> str:
    """Why this commit is not the one that runs, or nothing. Raises CliError where it was refused."""
    source = document.get("source") or {}
    if source.get("kind") != "git":
        raise CliError("this machine follows no repository; --digest takes the SHA-256 of its file.")
    if str(source.get("revision") or "").startswith(commit):
        return ""
    if str(source.get("head") or "").startswith(commit):
        raise CliError(
            f"that commit was refused: {_attempted(document).get('message') or 'see lmx status'}", REJECTED
        )
    return f"{str(source.get('revision') or 'no commit')[:12]} runs"


def _attempted(document: Mapping[str, Any]) -> Mapping[str, Any]:
    return document.get("last_attempted") or {}


def _goal(text: str, what: str | None, file: Path) -> Goal:
    condition, _, status = text.partition("=")
    status = status.capitalize() or "True"
    if not condition or status not in ("True", "False", "Unknown"):
        raise CliError(f"--for {text!r} is not a condition; write it like Ready or Degraded=False.")
    if what is None:
        return Goal(condition, status)
    if what == "file":
        return Goal(condition, status, digest=hashlib.sha256(content(file)).hexdigest())
    digest = what.lower().removeprefix("sha256:")
    if re.fullmatch(r"[0-9a-f]{64}", digest):
        return Goal(condition, status, digest=digest)
    if re.fullmatch(r"[0-9a-f]{7,40}", digest):
        return Goal(condition, status, commit=digest)
    raise CliError("--digest takes the 64 hexadecimal digits of a SHA-256, a commit, or the word file.")


def _seconds(text: str) -> float:
    from reconciler.units import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        raise CliError(f"--timeout: {error}; write it like 90s or 15m.") from error
