"""The spec as a JSON Schema, for editors: completion, descriptions and red underlines while typing.

`python -m reconciler.schema` writes `lmx.schema.json` and the reference page; a test fails where
either is stale. The schema takes everything `lmx validate` takes, and a little more: what needs two
fields compared, or the environment, only `lmx validate` can judge.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from reconciler import fields, names
from reconciler.loader.not_yet import is_not_yet
from reconciler.spec import Spec

_ROOT = Path(__file__).parent.parent
SCHEMA_FILE = _ROOT / "lmx.schema.json"
_REFERENCE = {"$ref": "#/$defs/reference"}


def build() -> dict[str, Any]:
    """The whole schema, draft 2020-12."""
    definitions: dict[str, Any] = {
        "reference": {
            "description": "Replaced from the environment when the file is read",
            "type": "string",
            "pattern": r"\$\{LMX_[A-Z0-9_]+\}",
        }
    }
    root = _object(Spec, "", definitions)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "lmx.yaml",
        "description": "What one machine should serve. LMX makes it so, and keeps it so.",
        **_or_extends(root),
        "$defs": definitions,
    }


def _or_extends(root: dict[str, Any]) -> dict[str, Any]:
    """What is required may stand in the base that a file extends."""
    extending = {"required": ["extends"], "properties": {"extends": {"type": "string"}}}
    choice = [{"required": root["required"]}, extending]
    return {key: value for key, value in root.items() if key != "required"} | {"anyOf": choice}


def text() -> str:
    """`lmx.schema.json`, byte for byte."""
    return json.dumps(build(), indent=2, ensure_ascii=False) + "\n"


def _object(model: type[BaseModel], prefix: str, definitions: dict[str, Any]) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        form, path = fields.shape(field), prefix + name
        note = " Not supported yet: only the default may stand here." if is_not_yet(path) else ""
        about: dict[str, Any] = {"description": f"{field.description}.{note}"}
        if form.kind is not None:
            about["description"] += f" ({fields.change_class(field)})"
            if not field.is_required():
                about["default"] = form.kind.show(fields.default(field))
            properties[name] = {**about, **_or_reference(form.kind.schema)}
            continue
        assert form.nested is not None
        below = f"{path}.{fields.MAP_KEY}." if form.named else f"{path}."
        if form.nested.__name__ not in definitions:
            definitions[form.nested.__name__] = {}  # holds its place, so the order is that of the file
            definitions[form.nested.__name__] = _object(form.nested, below, definitions)
        inner = {"$ref": f"#/$defs/{form.nested.__name__}"}
        if form.named:
            key = {"propertyNames": names.KEY.schema, "additionalProperties": inner}
            properties[name] = {**about, "type": "object", **key}
        elif form.optional:
            properties[name] = {**about, "default": None, "anyOf": [{"type": "null"}, inner]}
        else:
            properties[name] = {**about, **inner}
    required = [name for name, field in model.model_fields.items() if field.is_required()]
    return {
        "type": "object",
        "additionalProperties": False,
        **({"required": required} if required else {}),
        "properties": properties,
    }


def _or_reference(schema: dict[str, Any]) -> dict[str, Any]:
    """The same values, or a `${LMX_*}` reference in the place of any single one."""
    if "anyOf" in schema:
        options = [
            _or_reference(option) if option.get("type") == "array" else option for option in schema["anyOf"]
        ]
        return {"anyOf": [*options, _REFERENCE]}
    if schema.get("type") == "array":
        return {**schema, "items": _or_reference(schema["items"])}
    free_text = schema.get("type") == "string" and "pattern" not in schema
    return schema if free_text or schema.get("type") == "object" else {"anyOf": [schema, _REFERENCE]}


def main() -> None:
    from reconciler import reference

    for path, content in ((SCHEMA_FILE, text()), (_ROOT / reference.FILE, reference.text())):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
