"""Warm-up templates become the very requests that clients send."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from appliance import templates
from appliance.server import rows, schema
from appliance.server.parse import parse
from reconciler.loader import load_text
from reconciler.spec import Spec

SYSTEM = [{"type": "text", "text": "You are "}, {"type": "text", "text": "an agent."}]
TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def spec(**named: Any) -> Spec:
    text = {
        "version": 1,
        "active": "demo",
        "models": {"demo": {"source": "./demo", "warmup": list(named)}},
        "warmup_templates": named,
    }
    return load_text(json.dumps(text), path=Path("lmx.yaml"), env={}).spec


def test_a_template_is_rendered_from_what_a_request_with_its_messages_would_be() -> None:
    messages = [{"role": "developer", "content": SYSTEM}, {"role": "user", "content": "Hello", "name": "ann"}]
    found = spec(agent={"messages": messages}, tools={"messages": messages, "tools": [TOOL]})
    plain, offering = templates.of(found, found.models["demo"])
    asked, offered = (
        rows.chat(parse(json.dumps({"messages": messages, **more}).encode(), schema.ChatRequest)).rows[0]
        for more in ({}, {"tools": [TOOL]})
    )
    assert plain.submit is not None
    assert plain.submit.messages == asked.messages
    assert (plain.submit.prompt, plain.submit.template_kwargs) == (asked.prompt, asked.template_kwargs)
    assert plain.submit.sampling.max_tokens == 1
    assert offering.submit is not None
    assert offering.submit.tools == offered.tools == [TOOL]
    assert offering.submit.messages == offered.messages
    assert (plain.name, offering.name) == ("agent", "tools")


def test_one_that_the_file_has_dropped_says_so() -> None:
    """After a rollback an older form of the model runs with the newer file's templates."""
    old = spec(agent={"messages": [{"role": "user", "content": "Hello"}]})
    (gone,) = templates.of(old.model_copy(update={"warmup_templates": {}}), old.models["demo"])
    assert gone.submit is None
    assert gone.problem == "warmup_templates no longer has it"
