"""What a reader is told of the calls that LMX runs on its way to an answer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from appliance import wire
from appliance.skills.messages import Outcome

NOT_RUN: Literal["not_run"] = "not_run"


class Step(msgspec.Struct, frozen=True, omit_defaults=True):
    """One look at one call. arguments: JSON, as the model wrote it. seconds: what a call that is done took.

    outcome: of one that is done; `not_run`: it was asked for and not begun, and the result says why.
    """

    id: str
    skill: str | None  # None: the model made the name up
    name: str
    arguments: str
    outcome: Outcome | Literal["not_run"] | None = None
    result: str | None = None
    seconds: float | None = None

    def shown(self) -> dict[str, Any]:
        """As the API tells it."""
        head = {"id": self.id, "skill": self.skill, "name": self.name, "arguments": self.arguments}
        if self.outcome is None:
            return {**head, "status": "running"}
        time = None if self.seconds is None else round(self.seconds * 1000, 1)
        told = {"outcome": self.outcome, "result": self.result, "duration_ms": time}
        return {**head, "status": "done", **told}


class Told(wire.More, frozen=True, array_like=True):
    """A delta that tells of calls. It never crosses the wire."""

    steps: tuple[Step, ...] = ()


def as_object(arguments: str) -> dict[str, Any] | None:
    """The arguments of a call; None where they are no JSON object."""
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):  # not JSON, or too deep to be read
        return None
    return found if isinstance(found, dict) else None


def as_message(step: Step) -> dict[str, Any]:
    """What the model is told."""
    text = step.result or ""
    if step.outcome == "refused":
        text = f"error: {text}"
    elif step.outcome != "ok":
        text = f"error ({step.outcome}): {text}"
    return {"role": "tool", "tool_call_id": step.id, "name": step.name, "content": text}


def told(more: wire.More | None, steps: Sequence[Step]) -> Told:
    """The same, and these steps."""
    base = {} if more is None else {name: getattr(more, name) for name in wire.More.__struct_fields__}
    return Told(**base, steps=tuple(steps))


def together(mores: Sequence[wire.More]) -> Told:
    """Everything, and of each call what is known last."""
    warnings = [more.warning for more in mores if more.warning is not None]
    steps = {step.id: step for more in mores if isinstance(more, Told) for step in more.steps}
    return Told(
        reasoning="".join(more.reasoning for more in mores),
        calls=[call for more in mores for call in more.calls],
        logprobs=[one for more in mores for one in more.logprobs],
        warning="; ".join(dict.fromkeys(warnings)) or None,
        reasoning_tokens=max(more.reasoning_tokens for more in mores),
        steps=tuple(steps.values()),
    )
