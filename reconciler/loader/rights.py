"""What a file from Git may not say, unless this machine's own file lets it: pure.

Who can push to a repository must not by that be able to run code here, to read files of this machine or to
take the keys away. So each of these needs both `git.verify` and its name in `git.allow`:

| `git.allow` | what it lets the repository say |
|---|---|
| skills | `skills`: programs and modules that run here |
| trust_remote_code | `models.*.trust_remote_code: true` |
| local_paths | folders and files of this machine: sources, adapters, drafts, chat templates, `cache.path` |
| key_files | `server.api_keys`, and `${...}` of the variable that holds the keys |

`git` and `state.path` are never Git's to say: they decide where LMX looks and what it remembers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from reconciler import names
from reconciler.loader import layers, tree
from reconciler.loader.problems import Fault, Loc
from reconciler.loader.tree import Mapping, Node


def refusals(found: Sequence[layers.Read], data: Any) -> list[Fault]:
    """Every value of the files from Git that the local file does not let them say.

    data: the merged files with references replaced, in which the local `git` stands.
    """
    theirs = [read for read in found if read.layer.origin == "git"]
    if not theirs:
        return []
    ours = [read for read in found if read.layer.origin == "local"]
    settings = data.get("git") if isinstance(data, dict) else None
    settings = settings if isinstance(settings, dict) else {}
    allowed = settings.get("allow")
    granted = set(allowed) if isinstance(allowed, list) and settings.get("verify") else set()
    keys = _at(layers.merged(ours), ("server", "api_keys")) if ours else None
    variable = _at(keys, ("env",)) if keys is not None else None
    held = tree.raw(variable) if variable is not None else None
    faults = []
    for read in theirs:
        for loc, right, what in _asked(read.root, data, not _null(keys), held):
            if right not in granted:
                faults.append(Fault(tree.locate(read.root, loc, key=True), _words(right, what), loc))
    return faults


def _words(right: str, what: str) -> str:
    if right == "never":
        return f"{what}; write it in the local file of the machine, not in the repository"
    return (
        f"a file from Git may not {what}; remove it, or let it in the local file of the machine: "
        f"git.verify, and {right} in git.allow"
    )


Asked = tuple[Loc, str, str]


def _asked(root: Mapping, data: Any, has_keys: bool, variable: Any) -> Iterator[Asked]:
    if not _null(_at(root, ("git",))):
        yield ("git",), "never", "only a local file says which repository is followed"
    if not _null(_at(root, ("state", "path"))):
        yield ("state", "path"), "never", "only a local file says where state lies"
    skills = _at(root, ("skills",))
    if isinstance(skills, Mapping):
        yield from ((("skills", name), "skills", "name programs to run") for name in skills.items)
    keys = _at(root, ("server", "api_keys"))
    if keys is not None and (has_keys or not _null(keys)):
        yield ("server", "api_keys"), "key_files", "say where API keys come from, or that none are needed"
    if not _null(_at(root, ("cache", "path"))):
        yield ("cache", "path"), "local_paths", "name a folder of this machine"
    models = _at(root, ("models",))
    if isinstance(models, Mapping):
        for name, model in models.items.items():
            yield from _model(("models", name), model, data)
    if isinstance(variable, str):
        for loc, node in layers.walk(root):
            if isinstance(node.value, str) and f"${{{variable}}}" in node.value:
                yield loc, "key_files", "use the variable that holds the API keys"


def _model(at: Loc, model: Node, data: Any) -> Iterator[Asked]:
    for below in (("source",), ("adapter",), ("draft", "source")):
        if _at(model, below) is not None:
            value = _value(data, (*at, *below))
            if isinstance(value, str) and names.is_local(value):
                yield (*at, *below), "local_paths", "name a folder of this machine"
    if not _null(_at(model, ("template", "file"))):
        yield (*at, "template", "file"), "local_paths", "name a file of this machine"
    code = _at(model, ("trust_remote_code",))
    if code is not None and _value(data, (*at, "trust_remote_code")) is not False:
        yield (*at, "trust_remote_code"), "trust_remote_code", "let a model's own code run"


def _at(node: Node | None, loc: tuple[str, ...]) -> Node | None:
    for part in loc:
        node = node.items.get(part) if isinstance(node, Mapping) else None
    return node


def _null(node: Node | None) -> bool:
    return node is None or (isinstance(node, tree.Scalar) and node.value is None)


def _value(data: Any, loc: Loc) -> Any:
    for part in loc:
        data = data.get(part) if isinstance(data, dict) else None
    return data
