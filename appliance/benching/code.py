"""Does the code that a model wrote do what was asked? It never runs in this process.

1. It is parsed. What imports anything but a few harmless modules, or names what reaches the system (`open`,
   `exec`, anything that begins with an underscore), is judged as failed, with the reason, and not run.
2. What is left runs in a child of its own (`code_child.py`): Python's isolated mode, no site packages, an
   empty environment and an empty folder, builtins cut down to a list, at most SECONDS of processor, CLOCK_S
   by the clock and MEMORY bytes, no file that can be written, and no further process.

The first is what makes it harmless, the second what makes it finite. Whoever wants neither leaves `coding`
out: `lmx bench --only chat,tools,json`.
"""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.benching import code_child

SECONDS = 1  # of processor
CLOCK_S = 10.0  # on a machine that is busy with the model too
MEMORY = 512 * 2**20
CHILD = Path(code_child.__file__)
LONGEST = 20_000  # characters of code
# Attributes by which code gets at Python's own frames and, through them, at everything.
INSIDES = ("_", "gi_", "cr_", "ag_", "f_", "tb_", "co_")


def judge(wanted: Mapping[str, Any], text: str) -> str:
    """What is wrong with it; nothing where the function gives the right result in every case."""
    source = extract(text)
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return f"no Python: {error}"
    if len(source) > LONGEST:
        return f"{len(source)} characters of code"
    name = wanted["function"]
    if not any(isinstance(node, ast.FunctionDef) and node.name == name for node in tree.body):
        return f"there is no function {name}"
    if why := forbidden(tree):
        return why
    for construct in wanted.get("without", ()):
        if any(type(node).__name__ == construct for node in ast.walk(tree)):
            return f"it uses {construct}, which the question forbids"
    return _run(source, name, wanted["cases"])


def extract(text: str) -> str:
    """The code of an answer: its fenced blocks together, or the whole where it has none."""
    blocks = re.findall(r"```[a-zA-Z0-9]*[ \t]*\n(.*?)(?:```|\Z)", text, re.DOTALL)
    return "\n".join(blocks) if blocks else text


def forbidden(tree: ast.AST) -> str:
    """Why this may not run; nothing where it may."""
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = ["." if node.level else str(node.module)]
            allowed = code_child.MODULES.get(names[0], ())
            wrong = [alias.name for alias in node.names if alias.name not in allowed]
            if names[0] in code_child.MODULES and wrong:
                return f"it imports {wrong[0]} of {names[0]}, which code of a bench may not"
        for name in names:
            if name not in code_child.MODULES:
                return f"it imports {name}, which code of a bench may not"
        attributes = [node.attr] if isinstance(node, ast.Attribute) else []
        if isinstance(node, ast.MatchClass):
            attributes = node.kwd_attrs
        for attribute in attributes:
            if attribute.startswith(INSIDES):
                return f"it uses .{attribute}, which code of a bench may not"
        if isinstance(node, ast.Name) and node.id.startswith("__"):
            return f"it uses {node.id}, which code of a bench may not"
    return ""


def _run(source: str, name: str, cases: list[Any]) -> str:
    given = {"source": source, "function": name, "cases": cases, "seconds": SECONDS, "memory": MEMORY}
    with tempfile.TemporaryDirectory(prefix="lmx-bench-") as folder:
        try:
            done = subprocess.run(
                [sys.executable, "-I", "-S", str(CHILD)],
                input=json.dumps(given).encode(),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=folder,
                env={},
                timeout=CLOCK_S,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired:
            return f"{name} does not end"
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        return f"{name} ended its process ({done.returncode}): too long, too large, or worse"
    return str(answer["why"])
