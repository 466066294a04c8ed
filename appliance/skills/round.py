"""One round of generation: what is kept of it for the next one, and what the reader is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from appliance import wire
from appliance.skills.registry import Offer
from appliance.skills.steps import Step, as_object
from appliance.supervisor.generation import Delta


@dataclass
class Round:
    """What one generation has said so far. own: places of calls that are not the client's."""

    text: list[str] = field(default_factory=list)
    reasoning: list[str] = field(default_factory=list)
    heads: dict[int, wire.CallPart] = field(default_factory=dict)
    arguments: dict[int, list[str]] = field(default_factory=dict)
    theirs: dict[int, int] = field(default_factory=dict)  # place among all calls -> among the client's
    thought: int = 0

    def hear(self, delta: Delta, client: frozenset[str]) -> wire.More | None:
        """Keep it; gives what the reader is told of it beside the text."""
        self.text.append(delta.text)
        more = delta.more
        if more is None:
            return None
        self.reasoning.append(more.reasoning)
        self.thought = max(self.thought, more.reasoning_tokens)
        parts = [part for part in more.calls if self._call(part, client)]
        shown = [msgspec.structs.replace(part, index=self.theirs[part.index]) for part in parts]
        left = msgspec.structs.replace(more, calls=shown)
        return None if left == wire.More() else left

    def _call(self, part: wire.CallPart, client: frozenset[str]) -> bool:
        """Whether it is for the client."""
        if part.index not in self.heads:
            self.heads[part.index] = part
            if (part.name or "") in client:
                self.theirs[part.index] = len(self.theirs)
        self.arguments.setdefault(part.index, []).append(part.arguments)
        return part.index in self.theirs

    def steps(self, offers: Mapping[str, Offer]) -> list[Step]:
        """The calls that are ours, as they were asked for."""
        found = []
        for index in sorted(self.heads.keys() - self.theirs.keys()):
            head = self.heads[index]
            name = head.name or ""
            offer = offers.get(name)
            skill = offer.skill if offer is not None else None
            found.append(Step(head.id or f"call_{index}", skill, name, "".join(self.arguments[index])))
        return found

    def message(self, steps: Sequence[Step]) -> dict[str, Any]:
        """As the assistant's turn of the conversation."""
        said = "".join(self.reasoning)
        calls = [
            {
                "id": step.id,
                "type": "function",
                # A template may take it apart: what is no JSON is told in the result.
                "function": {
                    "name": step.name,
                    "arguments": step.arguments if as_object(step.arguments) is not None else "{}",
                },
            }
            for step in steps
        ]
        thoughts = {"reasoning_content": said} if said else {}
        return {"role": "assistant", "content": "".join(self.text), **thoughts, "tool_calls": calls}
