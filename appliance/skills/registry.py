"""All skills of the spec: kept as it says, offered to requests, told of in status and metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from appliance.breakers import Breakers
from appliance.errors import ApiError
from appliance.skills.messages import Result, Tool
from appliance.skills.skill import Skill
from appliance.skills.worker import sweep
from reconciler import spec
from reconciler.events import EventType

STARTING_S = 15.0  # a request waits this long for a skill that is just starting
RETRY_S = 5.0
MOST = 32  # skills that one request may name

Tell = Callable[[EventType, str, dict[str, Any]], None]


class Offer(NamedTuple):
    """A tool that a request may use, and whose it is."""

    skill: str
    tool: Tool

    def function(self) -> dict[str, Any]:
        """As Chat Completions offers it."""
        tool = self.tool
        about = {"description": tool.description} if tool.description else {}
        return {"type": "function", "function": {"name": tool.name, **about, "parameters": tool.parameters}}


class Skills:
    """base: the folder of lmx.yaml. state: of this LMX. tell: of events. on_call: skill, outcome, seconds."""

    def __init__(
        self,
        base: Path,
        state: Path,
        breakers: Breakers,
        tell: Tell,
        on_call: Callable[[str, str, float], None],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._base, self._state = base, state
        self._breakers, self._tell, self._on_call, self._environ = breakers, tell, on_call, environ
        self._skills: dict[str, Skill] = {}
        self._retired: list[Skill] = []  # some of whose processes are still there
        sweep(self._state)

    def apply(self, forms: Mapping[str, spec.Skill]) -> None:
        """Be as the spec says. What did not change is not touched."""
        self._retired = [skill for skill in self._retired if not skill.gone]
        for name, skill in [*self._skills.items()]:
            if forms.get(name) != skill.form:
                skill.retire()
                self._retired.append(skill)
                del self._skills[name]
                self._breakers.forget(_breaker(name))
        for name, form in forms.items():
            if name not in self._skills:
                self._skills[name] = Skill(
                    name,
                    form,
                    self._breakers.get(_breaker(name)),
                    self._base,
                    self._state,
                    self._moved,
                    lambda skill, outcome, seconds: self._on_call(skill.name, outcome, seconds),
                    self._environ,
                )

    def restart(self) -> None:
        """All of them, as a person asks: their code may have changed."""
        for skill in self._skills.values():
            skill.restart()

    async def close(self) -> None:
        await asyncio.gather(*(skill.close() for skill in [*self._skills.values(), *self._retired]))
        sweep(self._state)

    # --- for requests ------------------------------------------------------------------------------

    async def offers(self, names: Iterable[str]) -> dict[str, Offer]:
        """The tools of these skills, by the tool's name. SKILL.TOOL names one tool of an MCP server.

        Raises ApiError.
        """
        wanted = list(dict.fromkeys(names))
        if len(wanted) > MOST:
            raise _invalid(f"at most {MOST} skills, found {len(wanted)}")
        found: dict[str, Offer] = {}
        for name in wanted:
            key, _, tool = name.partition(".")
            skill = self._skills.get(key)
            if skill is None:
                known = ", ".join(self._skills) or "none"
                raise _invalid(f"there is no skill {name[:100]!r} here; there is: {known}")
            for one in await self._tools(skill, tool):
                other = found.get(one.name)
                if other is not None and other.skill != key:
                    text = f"{other.skill} and {key} both have a tool called {one.name}; name one: {key}.TOOL"
                    raise _invalid(text)
                found[one.name] = Offer(key, one)
        return found

    async def _tools(self, skill: Skill, tool: str) -> list[Tool]:
        if not skill.tools:
            await skill.settled(STARTING_S)
        if not skill.tools:
            text = f"the skill {skill.name} cannot be used now: {skill.reason or 'it is still starting'}"
            raise ApiError("skill_unavailable", text, param="skills", retry_after=RETRY_S)
        if not tool:
            return list(skill.tools.values())
        if tool not in skill.tools:
            known = ", ".join(skill.tools)
            raise _invalid(f"{skill.name} has no tool {tool[:100]!r}; it has: {known}")
        return [skill.tools[tool]]

    async def call(self, offer: Offer, arguments: dict[str, Any]) -> Result:
        """Raises CancelledError alone, which ends the call."""
        skill = self._skills.get(offer.skill)
        if skill is None:
            return Result(0, "unavailable", f"there is no skill {offer.skill} any more")
        return await skill.call(offer.tool.name, arguments)

    # --- for people --------------------------------------------------------------------------------

    def listing(self) -> list[dict[str, Any]]:
        """For GET /v1/skills."""
        return [
            {
                "id": name,
                "object": "skill",
                "kind": _kind(skill.form),
                "state": _state(skill),
                "reason": _reason(skill),
                "tools": [
                    {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
                    for tool in skill.tools.values()
                ],
                "left_out": skill.left_out,
            }
            for name, skill in self._skills.items()
        ]

    def status(self) -> dict[str, Any]:
        return {
            name: {
                "kind": _kind(skill.form),
                "state": _state(skill),
                "reason": _reason(skill),
                "since": skill.since,
                "tools": list(skill.tools),
                "left_out": skill.left_out,
                "calls": dict(skill.calls),
                "pids": skill.pids,
            }
            for name, skill in self._skills.items()
        }

    def states(self) -> dict[str, str]:
        return {name: _state(skill) for name, skill in self._skills.items()}

    def _moved(self, skill: Skill) -> None:
        data = {"skill": skill.name, "state": skill.state}
        if skill.state == "ready":
            self._tell(
                EventType.SKILL_READY, f"{skill.name} offers {', '.join(skill.tools) or 'nothing'}", data
            )
        elif skill.state == "failed":
            self._tell(EventType.SKILL_FAILED, f"{skill.name}: {skill.reason}", data)


STATES = ("starting", "ready", "failed", "left_alone")


def _kind(form: spec.Skill) -> str:
    return "python" if form.python is not None else "mcp"


def _state(skill: Skill) -> str:
    """left_alone: its circuit breaker is open."""
    return "left_alone" if skill.breaker.state == "open" else skill.state


def _reason(skill: Skill) -> str:
    return skill.breaker.view().why if skill.breaker.state == "open" else skill.reason


def _breaker(name: str) -> str:
    return f"skill {name}"


def _invalid(message: str) -> ApiError:
    return ApiError("invalid_request", f"skills: {message}", param="skills")
