"""What an MCP server offers, and what of it models can be offered. Pure but for the schema library."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import mcp_types as types
from jsonschema import SchemaError
from jsonschema.exceptions import best_match
from jsonschema.protocols import Validator
from jsonschema.validators import Draft202012Validator, validator_for
from referencing import Registry
from referencing.exceptions import Unresolvable

from appliance.skills.messages import Tool, printable
from reconciler.names import is_skill


@dataclass(frozen=True)
class Offered:
    """By name. left_out: why a tool is not among them."""

    tools: dict[str, Tool]
    left_out: dict[str, str]
    validators: dict[str, Validator]

    def mistakes(self, name: str, arguments: dict[str, Any]) -> str:
        """What is wrong with the arguments of a call; "" where they fit."""
        try:
            found = best_match(self.validators[name].iter_errors(arguments))
        except Unresolvable as error:  # nothing is fetched for the sake of a check
            return f"the tool's own schema refers to what is not in it: {error}"
        return "" if found is None else f"{found.json_path}: {found.message}"


def offered(found: Sequence[types.Tool], only: Sequence[str] | None) -> Offered:
    """only: names that the operator allows; None: all."""
    tools: dict[str, Tool] = {}
    left_out: dict[str, str] = {}
    validators: dict[str, Validator] = {}
    for tool in found:
        name = printable(tool.name)[:128]
        if only is not None and name not in only:
            continue
        if not is_skill(name):
            left_out[name] = "models can call names of letters, digits, '_' and '-' only, at most 64"
            continue
        schema = tool.input_schema
        if schema.get("type", "object") != "object":
            left_out[name] = "its schema is none of an object"
            continue
        kind = validator_for(schema, default=Draft202012Validator)
        try:
            kind.check_schema(schema)
        except SchemaError as error:
            left_out[name] = f"its schema is none: {error.message}"[:200]
            continue
        tools[name] = Tool(name, printable(tool.description or tool.title or ""), schema)
        validators[name] = kind(schema, registry=Registry())
    for name in only or ():
        if name not in tools and name not in left_out:
            left_out[name] = "the server offers no such tool"
    return Offered(tools, left_out, validators)
