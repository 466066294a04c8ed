"""`warmup_templates` as requests: read and rendered like a client's, else their beginnings would differ."""

from __future__ import annotations

import msgspec

from appliance import wire
from appliance.errors import ApiError
from appliance.server import rows, schema
from appliance.server.parse import parse
from appliance.supervisor.order import Template
from reconciler.spec import Model, Spec, WarmupTemplate

# One token is enough: the prompt is what is kept.
SAMPLING = wire.Sampling(max_tokens=1, temperature=0.0)


def of(spec: Spec, model: Model) -> tuple[Template, ...]:
    """Those that this model warms up with. One that cannot be sent says why."""
    return tuple(_template(name, spec.warmup_templates.get(name)) for name in model.warmup)


def _template(name: str, template: WarmupTemplate | None) -> Template:
    if template is None:  # an older form of the model runs again, whose templates have gone
        return Template(name, problem="warmup_templates no longer has it")
    body = msgspec.json.encode({"messages": list(template.messages), "tools": list(template.tools)})
    try:
        row = rows.chat(parse(body, schema.ChatRequest)).rows[0]
    except ApiError as error:
        return Template(name, problem=error.message)
    return Template(name, msgspec.structs.replace(row, sampling=SAMPLING))
