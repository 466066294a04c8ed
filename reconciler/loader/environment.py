"""`${LMX_NAME}` in values is replaced from the environment; nothing else is.

One prefix only, so that no file can read the secrets of the account it runs under. What looks like a
reference and is none is an error, not text: `${HOME}/models` would otherwise become a folder of that
name. `$${` writes a plain `${`. The result is not looked at again, and keys are never touched.
"""

from __future__ import annotations

import re
from collections.abc import Mapping as Env
from typing import Any

from reconciler.loader.problems import Fault, Loc
from reconciler.loader.tree import Mapping, Node, Scalar, Sequence
from reconciler.scalars import Expanded, closest

PREFIX = "LMX_"
_REFERENCE = re.compile(r"\$\$\{|\$\{([^{}]*)\}|\$\{")
_NAME = re.compile(r"LMX_[A-Z0-9_]+\Z")


def substitute(node: Node, env: Env[str, str], faults: list[Fault], path: Loc = ()) -> Any:
    """Plain Python data with references replaced by `Expanded` text. Adds what is wrong to `faults`."""
    if isinstance(node, Mapping):
        return {key: substitute(item, env, faults, (*path, key)) for key, item in node.items.items()}
    if isinstance(node, Sequence):
        return [substitute(item, env, faults, (*path, index)) for index, item in enumerate(node.items)]
    if isinstance(node.value, str) and "${" in node.value:
        return _replace(node, node.value, env, faults, path)
    return node.value


def references(value: Any, path: str = "") -> dict[str, str]:
    """Dotted path -> the text in the file, for every value in which something was replaced."""
    if isinstance(value, Expanded):
        return {path: value.raw}
    found: dict[str, str] = {}
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            found |= references(item, f"{path}.{key}" if path else str(key))
    return found


def _replace(node: Scalar, text: str, env: Env[str, str], faults: list[Fault], path: Loc) -> str:
    replaced = False

    def one(match: re.Match[str]) -> str:
        nonlocal replaced
        if match[0] == "$${":
            return "${"
        name = match[1]
        fault = _fault(name, env)
        if fault:
            near = (
                closest(name, (known for known in env if known.startswith(PREFIX)))
                if _NAME.match(name or "")
                else ""
            )
            faults.append(Fault(node.place, fault, path, near))
            return match[0]
        replaced = True
        return env[name]

    result = _REFERENCE.sub(one, text)
    return Expanded(result, text) if replaced else result


def _fault(name: str | None, env: Env[str, str]) -> str:
    if name is None:
        return "'${' is not closed; write ${LMX_NAME}, or $${ for a plain ${"
    shown = f"${{{name}}}"
    if not name.startswith(PREFIX):
        return f"{shown} is not replaced, only {PREFIX}* names are; for the text itself write ${shown}"
    if not _NAME.match(name):
        return (
            f"{shown} is no reference; write ${{LMX_NAME}} with capitals, digits and '_', without a default"
        )
    if name not in env:
        return f"the environment variable {name} is not set; set it where `lmx up` starts"
    if any("\ud800" <= letter <= "\udfff" for letter in env[name]):
        return f"the environment variable {name} is not UTF-8"
    return ""
