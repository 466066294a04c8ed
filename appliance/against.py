"""What a file would say on a given appliance: alone, or as a layer of one that follows Git.

A file of the repository is laid over the machine's own local file, which `GET /admin/config` tells; the
local file itself (it has `git:`) goes below what the repository says now. So CI sees the effective spec of
that machine, and the refusals it would give.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reconciler.loader import Loaded, layers, load_text, tree
from reconciler.loader.layers import Layer
from reconciler.sources.local import LocalSource


def layers_of(content: bytes) -> list[dict[str, str]]:
    """The files that run together on an appliance that follows Git, lowest first; none on another.

    As the files word it: references to the environment are not replaced, so no secret is in it.
    """
    if not layers.from_git(content):
        return []
    return [
        {"name": layer.name, "origin": layer.origin, "text": layer.data.decode("utf-8", "replace")}
        for layer in layers.unpack(content)
    ]


def read(file: Path, config: Mapping[str, Any] | None) -> Loaded:
    """FILE as the appliance of this `/admin/config` would have it. Raises SpecError, SourceError."""
    own = LocalSource(file).layers()
    running = [_layer(told) for told in (config or {}).get("layers") or ()]
    if running:
        origin, other = ("local", "git") if _follows(own) else ("git", "local")
        beside = [layer for layer in running if layer.origin == other]
        mine = [Layer(layer.name, layer.data, origin, layer.broken) for layer in own]  # type: ignore[arg-type]
        own = tuple([*mine, *beside] if other == "git" else [*beside, *mine])
    return load_text(layers.pack(own), path=file, env=os.environ)


def _layer(told: Mapping[str, str]) -> Layer:
    return Layer(told["name"], told["text"].encode(), "git" if told["origin"] == "git" else "local")


def _follows(own: Sequence[Layer]) -> bool:
    """Whether these are a machine's local files: only those say which repository is followed."""
    for layer in own:
        try:
            root, _ = tree.read(layer.data)
        except tree.Unreadable:
            continue  # whoever parses it next tells where
        node = root.items.get("git")
        if node is not None and tree.raw(node) is not None:
            return True
    return False
