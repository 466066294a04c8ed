"""How much a model should think before it answers, from the fields that say so. Pure."""

from __future__ import annotations

from typing import Any

from msgspec import Raw

from appliance.server import fields
from appliance.server.fields import invalid, not_supported

# What chat templates know, and the type of each. A template would ignore what it does not know.
_KNOWN: dict[str, type] = {"enable_thinking": bool, "reasoning_effort": str}


def kwargs(raw: Raw, effort: str | None) -> dict[str, Any] | None:
    """Variables of the chat template, from `chat_template_kwargs` and `reasoning_effort`. None: none.

    `none` turns thinking off, any other effort turns it on and tells the template how much.
    """
    given = fields.small(raw, "chat_template_kwargs", dict[str, Any]) or {}
    for name, value in given.items():
        kind = _KNOWN.get(name)
        if kind is None:
            known = " and ".join(_KNOWN)
            raise not_supported(f"chat_template_kwargs.{name[:80]}", f"; {known} are")
        if not isinstance(value, kind):
            wanted = "true or false" if kind is bool else "a string"
            raise invalid(f"chat_template_kwargs.{name}", f"expected {wanted}")
    if effort is not None:
        wished = {"enable_thinking": False} if effort == "none" else of_effort(effort)
        for name, value in wished.items():
            if given.get(name, value) != value:
                text = f"{effort} and chat_template_kwargs.{name} contradict each other"
                raise invalid("reasoning_effort", text)
        given = {**given, **wished}
    return given or None


def of_effort(effort: str) -> dict[str, Any]:
    return {"enable_thinking": True, "reasoning_effort": effort}
