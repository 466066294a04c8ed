"""The API keys of one appliance, as a file or an environment variable names them.

Two forms, told apart by themselves. Plain keys, separated by spaces, commas or lines:

    sk-first-key-of-this-machine, sk-second-key-of-this-machine

or a YAML map, name by name, with what each key may do:

    alice: {sha256: 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08}
    ci:
      key: sk-0123456789abcdef
      requests_per_minute: 60
      tokens_per_minute: 100000
      streams: 4
      models: [daily]
      admin: true

What is kept of a key is its SHA-256. That is enough because keys are long and random: there is nothing to
guess from. No message here quotes what stands in the text, since any part of it may be a key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest

from reconciler.loader import tree

MOST = 1000  # every key is compared with for every request: 1,000 take 0.1 ms
SHORTEST = 16  # characters; `openssl rand -hex 24` makes one
LONGEST = 512
FIELDS = ("key", "sha256", "requests_per_minute", "tokens_per_minute", "streams", "models", "admin")

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}\Z")
_KEY = re.compile(r"[\x21-\x7e]+\Z")
_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_MAP = re.compile(r"^[^#\n]*:(\s|$)", re.MULTILINE)
_COUNTS = {"requests_per_minute": 10**6, "tokens_per_minute": 10**9, "streams": 10**4}


class KeysError(Exception):
    """The keys cannot be taken. The message tells where and what to do, and quotes nothing."""


@dataclass(frozen=True)
class Key:
    """requests, tokens: per minute. streams: requests at once. None: without limit.

    models: keys of the spec's models; None: all of them.
    """

    name: str
    digest: bytes
    requests: int | None = None
    tokens: int | None = None
    streams: int | None = None
    models: frozenset[str] | None = None
    admin: bool = False

    def may_use(self, model: str) -> bool:
        return self.models is None or model in self.models


class Keyring:
    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self.keys = tuple(keys)

    def find(self, shown: str) -> Key | None:
        """Every key is compared with, in the same time each, so that time tells nothing about any."""
        digest, found = digest_of(shown), None
        for key in self.keys:
            if compare_digest(key.digest, digest):
                found = key
        return found


def digest_of(key: str) -> bytes:
    return sha256(key.encode("utf-8", "surrogatepass")).digest()


def parse(text: str) -> Keyring:
    """Raises KeysError."""
    keys = list(_mapped(text) if _MAP.search(text) else _plain(text))
    if not keys:
        raise KeysError("it holds no key; make one with `openssl rand -hex 24`")
    if len(keys) > MOST:
        raise KeysError(f"it holds {len(keys)} keys; at most {MOST} are taken")
    places: dict[bytes, str] = {}
    for key in keys:
        if key.digest in places:
            raise KeysError(f"{places[key.digest]} and {key.name} are the same key; remove one")
        places[key.digest] = key.name
    return Keyring(keys)


def in_plain(text: str) -> str | None:
    """A key that stands there as it is, one that may change things first. Raises KeysError."""
    ring = parse(text)
    if not _MAP.search(text):
        return _split(text)[0]
    root, _ = tree.read(text)
    for name in sorted(root.items, key=lambda name: not next(k.admin for k in ring.keys if k.name == name)):
        values = tree.raw(root.items[name])
        if "key" in values:
            return str(values["key"])
    return None


def _plain(text: str) -> Iterator[Key]:
    for number, key in enumerate(_split(text), 1):
        yield Key(f"key-{number}", digest_of(_fit(key, f"key {number}")))


def _split(text: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    return [key for key in re.split(r"[\s,]+", "\n".join(lines)) if key]


def _fit(key: str, where: str) -> str:
    if not SHORTEST <= len(key) <= LONGEST:
        raise KeysError(
            f"{where}: a key has {SHORTEST} to {LONGEST} characters, found {len(key)}; "
            "make one with `openssl rand -hex 24`"
        )
    if not _KEY.match(key):
        raise KeysError(f"{where}: a key holds printable ASCII characters only, and no spaces")
    return key


# --- the YAML form ----------------------------------------------------------------------------------


def _mapped(text: str) -> Iterator[Key]:
    try:
        root, faults = tree.read(text)
    except tree.Unreadable as error:
        raise _unreadable(error.faults[0].place.line) from None
    if faults:
        raise _unreadable(faults[0].place.line)
    for name, node in root.items.items():
        line = root.keys[name].line
        if not _NAME.match(name):
            raise KeysError(
                f"line {line}: a key's name has 1 to 64 letters, digits and '.', '_' or '-'; "
                "the key itself goes below it"
            )
        yield _one(name, node, f"line {line}, {name}")


def _unreadable(line: int) -> KeysError:
    return KeysError(f"line {line}: not valid YAML, or a name that is here twice")


def _one(name: str, node: tree.Node, where: str) -> Key:
    if not isinstance(node, tree.Mapping):
        raise KeysError(f"{where}: write its settings below it, like `sha256: ...`")
    unknown = [place.line for field, place in node.keys.items() if field not in FIELDS]
    if unknown:
        raise KeysError(f"line {unknown[0]}: not a setting of a key; known are {', '.join(FIELDS)}")
    values = tree.raw(node)
    if ("key" in values) == ("sha256" in values):
        raise KeysError(f"{where}: say exactly one of key and sha256")
    counts = {field: _count(values, field, where) for field in _COUNTS}
    admin = values.get("admin", False)
    if not isinstance(admin, bool):
        raise KeysError(f"{where}: admin is true or false")
    return Key(
        name,
        _digest(values, where),
        counts["requests_per_minute"],
        counts["tokens_per_minute"],
        counts["streams"],
        _models(values, where),
        admin,
    )


def _digest(values: dict[str, object], where: str) -> bytes:
    field = "key" if "key" in values else "sha256"
    value = values[field]
    if not isinstance(value, str):
        raise KeysError(f"{where}: {field} must be text; put it in quotes")
    if field == "key":
        return digest_of(_fit(value, where))
    if not _SHA256.match(value.lower()):
        raise KeysError(
            f"{where}: sha256 must be 64 hexadecimal digits, as `printf %s KEY | shasum -a 256` tells"
        )
    return bytes.fromhex(value)


def _count(values: dict[str, object], field: str, where: str) -> int | None:
    value, most = values.get(field), _COUNTS[field]
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise KeysError(
            f"{where}: {field} must be a whole number from 1 to {most}; without a limit leave it out"
        )
    return value


def _models(values: dict[str, object], where: str) -> frozenset[str] | None:
    value = values.get("models")
    if value is None:
        return None
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise KeysError(
            f"{where}: models must be a list of names, like [daily]; for all of them leave it out"
        )
    return frozenset(value)
