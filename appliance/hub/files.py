"""What lies on disk for one source, checked as far as headers go: `find`.

Called in every pass of the loop, so a folder is opened only when its stat signature has changed.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import stat
import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import appliance
from appliance.hub import chat_template, headers
from appliance.hub.cache import BadName, Wanted, cache_folder, check_file_name, snapshot
from reconciler.names import is_builtin, is_gguf, is_local
from reconciler.observed import ModelFiles

INDEX = "model.safetensors.index.json"
SENTENCES = "sentence_bert_config.json"
JSON_LIMIT = 64 * 1024 * 1024  # bytes; the largest published index is a twentieth of it
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npz")
_REMEMBERED = 64  # folders; one entry is a parsed config

Signature = tuple[tuple[str, int, int, int], ...]


@dataclass(frozen=True)
class _Folder:
    """One checked folder. problem: why it cannot be loaded. incomplete: parts are missing, not wrong."""

    path: Path
    fingerprint: str
    weights_bytes: int = 0
    parameters: int = 0
    config: Mapping[str, Any] | None = None
    problem: str | None = None
    incomplete: bool = False


class _Problem(Exception):
    def __init__(self, message: str, *, incomplete: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.incomplete = incomplete


_lock = threading.Lock()
_seen: dict[tuple[Path, bool], tuple[Signature, _Folder]] = {}  # the latest checks, oldest first


def find(
    source: str,
    revision: str | None = None,
    adapter: str | None = None,
    base: Path | None = None,
    cache: Path | None = None,
    *,
    code: bool = False,
    template: str | None = None,
) -> ModelFiles:
    """What is there for `source`: a local folder (relative to `base`), `builtin:NAME`, or a Hub repo.

    Never raises for what users can get wrong: that is `state="broken"` with a message that says what to
    do, or `absent` for a Hub repo that is not, or not wholly, in the cache. cache None: the hub's own.
    code: the model's own Python files belong to it (`trust_remote_code`). template: `template.file`.
    """
    base, cache = base or Path.cwd(), cache or cache_folder()
    found = _part(source, revision, base, cache, adapter=False, code=code)
    if found.state == "present" and template is not None:
        found = _with_template(found, chat_template.look(template, base))
    if found.state != "present" or adapter is None:
        return found
    extra = _part(adapter, None, base, cache, adapter=True)
    fingerprint = f"{found.fingerprint}+{extra.fingerprint}"
    if extra.state != "present":
        return replace(extra, path=None, message=f"adapter: {extra.message}", fingerprint=fingerprint)
    return replace(found, adapter_bytes=extra.weights_bytes, fingerprint=fingerprint)


def _with_template(found: ModelFiles, own: chat_template.Found) -> ModelFiles:
    fingerprint = f"{found.fingerprint}/{own.digest}"
    if own.problem is None:
        return replace(found, template=own.digest, fingerprint=fingerprint)
    return ModelFiles("broken", message=own.problem, permanent=True, fingerprint=fingerprint)


def locate(source: str, revision: str | None, base: Path, cache: Path | None = None) -> Path | None:
    """The folder a source stands for, whether or not it is there; None for a Hub repo not in the cache."""
    if is_builtin(source):
        return builtin(source.partition(":")[2])
    if is_local(source):
        return Path(os.path.normpath(base / Path(source).expanduser()))
    return snapshot(cache or cache_folder(), source, revision)


def wanted(
    source: str,
    revision: str | None = None,
    adapter: str | None = None,
    base: Path | None = None,
    cache: Path | None = None,
    *,
    code: bool = False,
) -> list[Wanted]:
    """The Hub repos that must be downloaded before `find` says present. Empty where nothing would help."""
    base, cache = base or Path.cwd(), cache or cache_folder()
    parts: list[tuple[str, str | None, bool]] = [(source, revision, False)]
    if adapter is not None:
        parts.append((adapter, None, True))
    return [
        Wanted(name, rev, code and not is_adapter)
        for name, rev, is_adapter in parts
        if _part(name, rev, base, cache, adapter=is_adapter, code=code and not is_adapter).state == "absent"
    ]


def builtin(name: str) -> Path:
    """The folder of a model that comes with LMX: inside the installed package, else in the checkout."""
    package = Path(appliance.__file__).resolve().parent
    inside = package / "models" / name
    return inside if inside.is_dir() else package.parent / "examples" / "models" / name


def _part(
    source: str, revision: str | None, base: Path, cache: Path, *, adapter: bool, code: bool = False
) -> ModelFiles:
    """One source: the model, or its adapter."""
    if is_gguf(source):
        return _broken(f"{source} is a GGUF file: not supported yet; use the model's MLX or safetensors form")
    hub = not is_local(source) and not is_builtin(source)
    try:
        path = locate(source, revision, base, cache)
    except BadName as error:
        return _broken(str(error))
    except PermissionError as error:
        return _broken(_unreadable(cache, error))
    if path is None:
        at = f" at revision {revision}" if revision else ""
        return ModelFiles("absent", message=f"{source}{at} is not downloaded")
    inside = cache if hub else None
    folder = check_folder(path, adapter=adapter, inside=inside)
    if folder.problem is None and hub and code and (lost := _code_missing(path, folder.config or {})):
        message = f"{path} lacks {lost}, the model's own code; it was downloaded without"
        return ModelFiles("absent", path=str(path), message=message, fingerprint=folder.fingerprint)
    if folder.problem is None:
        return ModelFiles(
            "present",
            path=str(folder.path),
            weights_bytes=folder.weights_bytes,
            parameters=folder.parameters,
            config=folder.config or {},
            fingerprint=folder.fingerprint,
        )
    state: Literal["absent", "broken"] = "absent" if hub and folder.incomplete else "broken"
    return ModelFiles(
        state,
        path=str(folder.path),
        message=folder.problem,
        permanent=state == "broken",
        fingerprint=folder.fingerprint,
    )


def _code_missing(path: Path, config: Mapping[str, Any]) -> str | None:
    """The first Python file that the model's files name and its folder lacks.

    `model_file` is mlx-lm's word; `auto_map` is transformers': kind of class -> "module.Class", or a list of
    such for tokenizers. "repo--module.Class" is another repo's code, which is not fetched.
    """
    found = [config.get("model_file"), *_modules(config.get("auto_map"))]
    tokenizer = path / "tokenizer_config.json"
    if tokenizer.is_file():
        try:
            found += _modules(_json(tokenizer).get("auto_map"))
        except _Problem:
            return None  # the engine says so when it reads it
    for name in found:
        if isinstance(name, str) and "/" not in name and not (path / name).is_file():
            return name
    return None


def _modules(auto_map: object) -> list[str]:
    if not isinstance(auto_map, dict):
        return []
    named = [one for value in auto_map.values() for one in (value if isinstance(value, list) else [value])]
    return [f"{one.partition('.')[0]}.py" for one in named if isinstance(one, str) and "--" not in one]


def _broken(message: str) -> ModelFiles:
    return ModelFiles("broken", message=message, permanent=True)


def check_folder(path: Path, *, adapter: bool = False, inside: Path | None = None) -> _Folder:
    """Check one folder, or remember the last check while nothing in it has changed.

    inside: symlinks must not lead out of this folder (a downloaded snapshot must stay in its cache).
    """
    try:
        signature = _signature(path)
    except OSError as error:
        return _Folder(path, f"errno {error.errno}", problem=_unreadable(path, error))
    key = (path, adapter)
    known = _seen.get(key)
    if known is not None and known[0] == signature:
        return known[1]
    fingerprint = hashlib.sha256(repr(signature).encode()).hexdigest()[:16]
    names = {name for name, size, *_ in signature if size >= 0}
    try:
        folder = _checked(path, names, fingerprint, adapter, inside)
    except _Problem as problem:
        folder = _Folder(path, fingerprint, problem=problem.message, incomplete=problem.incomplete)
    except headers.BadWeights as error:
        folder = _Folder(path, fingerprint, problem=str(error))
    except BadName as error:
        folder = _Folder(path, fingerprint, problem=f"{path}: {error}")
    except OSError as error:
        # Not remembered: rights can change without a trace in the signature.
        return _Folder(path, f"{fingerprint} errno {error.errno}", problem=_unreadable(path, error))
    with _lock:
        _seen.pop(key, None)
        _seen[key] = (signature, folder)
        while len(_seen) > _REMEMBERED:
            del _seen[next(iter(_seen))]
    return folder


def _signature(path: Path) -> Signature:
    """Name, size, modification time and inode of every file: what changes when the files change."""
    entries: list[tuple[str, int, int, int]] = []
    with os.scandir(path) as listing:
        for entry in listing:
            try:
                info = entry.stat()
            except FileNotFoundError:
                entries.append((entry.name, -1, 0, 0))  # a symlink to nothing
                continue
            if stat.S_ISREG(info.st_mode):
                entries.append((entry.name, info.st_size, info.st_mtime_ns, info.st_ino))
    return tuple(sorted(entries))


def _checked(path: Path, names: set[str], fingerprint: str, adapter: bool, inside: Path | None) -> _Folder:
    described, glob_start = ("adapter_config.json", "adapters") if adapter else ("config.json", "model")
    if inside is not None:
        _stays_inside(path, names, inside)
    if described not in names:
        others = "" if names else " (the folder is empty)"
        what = "an adapter" if adapter else "a model"
        raise _Problem(f"{path} has no {described}, so it is not {what} folder{others}", incomplete=True)
    config = _json(path / described)
    if not adapter and not isinstance(config.get("model_type"), str):
        raise _Problem(f"{path / described} names no model_type, so nothing can load it")
    if not adapter and SENTENCES in names:  # an encoder's own limit, beside what config.json says
        said = _json(path / SENTENCES).get("max_seq_length")
        config = {**config, "max_seq_length": said} if isinstance(said, int) else config
    shards = sorted(n for n in names if n.startswith(glob_start) and n.endswith(".safetensors"))
    listed = _json(path / INDEX).get("weight_map") if INDEX in names and not adapter else None
    if listed is not None:
        _all_there(path, listed, shards)
    if not shards:
        _no_weights(path, names, glob_start)
    tensors: dict[str, headers.Tensor] = {}
    for shard in shards:
        tensors.update(headers.read(path / shard))
    if isinstance(listed, dict) and not listed.keys() <= tensors.keys():
        lost = min(listed.keys() - tensors.keys())
        raise _Problem(f"{path} lacks the tensor {lost}, which its {INDEX} names; fetch the model again")
    quantization = config.get("quantization")
    group = quantization.get("group_size", 64) if isinstance(quantization, dict) else 64
    return _Folder(
        path,
        fingerprint,
        weights_bytes=sum(tensor.bytes for tensor in tensors.values()),
        parameters=headers.parameters(tensors, group if isinstance(group, int) else 64),
        config=config,
    )


def _stays_inside(path: Path, names: set[str], inside: Path) -> None:
    root = inside.resolve()
    for name in sorted(names):
        if not (path / name).resolve().is_relative_to(root):
            raise _Problem(f"{path / name} is a link that leads out of the model cache; remove {path}")


def _all_there(path: Path, listed: object, shards: list[str]) -> None:
    if not isinstance(listed, dict):
        raise _Problem(f"{path / INDEX} has no weight_map; fetch the model again")
    needed = {check_file_name(str(name)) for name in listed.values()}
    missing = sorted(needed - set(shards))
    if missing:
        raise _Problem(
            f"{path} lacks {len(missing)} of {len(needed)} weight files that its index names, "
            f"first {missing[0]}; fetch the model again",
            incomplete=True,
        )


def _no_weights(path: Path, names: set[str], glob_start: str) -> None:
    pickled = sorted(name for name in names if name.endswith(PICKLES))
    if pickled:
        raise _Problem(
            f"{path} has its weights only as {pickled[0]}, a format that LMX does not read because it can "
            "carry code; convert them to safetensors with `mlx_lm.convert`, or use a repo that has them"
        )
    raise _Problem(
        f"{path} has no weights: no file matches {glob_start}*.safetensors; fetch the model again, or point "
        "source at the folder that holds them",
        incomplete=True,
    )


def _json(file: Path) -> dict[str, Any]:
    if file.stat().st_size > JSON_LIMIT:
        raise _Problem(f"{file} is over {JSON_LIMIT // 2**20} MiB, so it is not what its name says")
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise _Problem(
            f"{file} is not JSON: {error.msg} at line {error.lineno}, column {error.colno}; "
            "fetch the model again"
        ) from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise _Problem(f"{file} is not JSON text in UTF-8 ({error}); fetch the model again") from error
    if not isinstance(value, dict):
        raise _Problem(f"{file} must hold a JSON object; fetch the model again")
    return value


def _unreadable(path: Path, error: OSError) -> str:
    at = error.filename or path
    if error.errno == errno.ENOENT:
        return f"there is no model folder at {at}; check source"
    if error.errno == errno.ENOTDIR:
        return f"{at} is not a folder; source must name the folder that holds config.json and the weights"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"cannot read {at}: permission denied; give LMX's user the right to read it"
    return f"cannot read {at}: {error.strerror}"
