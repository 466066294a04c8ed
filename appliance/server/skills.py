"""GET /v1/skills, and what a request says of skills: which it allows, and who runs their calls.

"skills": ["get_weather", "files.read_file"]     names of lmx.yaml; SKILL.TOOL is one tool of an MCP server
"skill_mode": "run"                              LMX runs them; "return": calls come back as any tool's do
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sanic import Blueprint
from sanic.request import Request
from sanic.response import HTTPResponse

from appliance.errors import ApiError
from appliance.server.health import GET
from appliance.server.replies import reply
from appliance.skills.loop import Opener, Plan

if TYPE_CHECKING:
    from appliance.server.control import Control
    from appliance.server.rows import Chat
    from appliance.server.schema import ChatRequest
    from appliance.skills.registry import Offer


@dataclass(frozen=True)
class Chosen:
    """The skills that a request allows. tools: theirs, as a request offers tools."""

    offers: dict[str, Offer] = field(default_factory=dict)
    run: bool = True

    @property
    def tools(self) -> list[dict[str, Any]]:
        return [offer.function() for offer in self.offers.values()]

    def opener(self, control: Control, found: Chat) -> Opener | None:
        """What its rows are opened with; None: the router alone."""
        if not self.offers or not self.run:
            return None
        named = {tool["function"]["name"] for tool in found.rows[0].tools or ()}
        client = frozenset(named - self.offers.keys())
        return Opener(control.router, Plan(control.skills, self.offers, client))


async def choose(control: Control, asked: ChatRequest) -> Chosen:
    """Raises ApiError for skills that there are not, or that cannot be used now."""
    if asked.skills is None:
        if asked.skill_mode is not None:
            raise ApiError("invalid_request", "skill_mode: needs skills to be named", param="skill_mode")
        return Chosen()
    offers = await control.skills.offers(asked.skills)
    return Chosen(offers, asked.skill_mode != "return")


def blueprint(control: Control) -> Blueprint:
    family = Blueprint("skills")

    async def listing(_: Request) -> HTTPResponse:
        return reply({"object": "list", "data": control.skills.listing()})

    family.add_route(listing, "/v1/skills", methods=GET)
    return family
