"""The file that lists a fleet's machines.

    machines:
      studio-01: http://studio-01.local:1234
      studio-02: {url: https://studio-02.local, key: {env: STUDIO_02_KEY}}
    key: {env: LMX_FLEET_KEY}      # for all that name none; or {file: PATH}

Keys come by reference: none is ever in this file, and none is shown.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml

from appliance.env_files import EnvFileError, check_private

MOST = 10_000  # machines


class InventoryError(ValueError):
    """The file cannot be used. The message names the place, and what to write there."""


@dataclass(frozen=True)
class Machine:
    name: str
    url: str
    key: str | None = field(default=None, repr=False)


def read(path: Path, environment: Mapping[str, str]) -> list[Machine]:
    """In the order of the file. Raises InventoryError."""
    try:
        data = yaml.safe_load(path.read_bytes())
    except FileNotFoundError as error:
        raise InventoryError(
            f"there is no {path}. It lists the machines: `machines: {{studio-01: http://studio-01.local:1234}}`"
        ) from error
    except OSError as error:
        raise InventoryError(f"{path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InventoryError(f"{path} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise InventoryError(f"{path} must be a map with the key `machines`")
    _only(data, {"machines", "key"}, str(path))
    machines = data.get("machines")
    if not isinstance(machines, dict) or not machines:
        raise InventoryError(f"{path}: machines must be a map of names to addresses")
    if len(machines) > MOST:
        raise InventoryError(f"{path}: {len(machines)} machines are more than {MOST}")
    usual = _key(data.get("key"), f"{path}: key", path, environment)
    return [_machine(name, told, usual, path, environment) for name, told in machines.items()]


def _machine(name: Any, told: Any, usual: str | None, path: Path, environment: Mapping[str, str]) -> Machine:
    where = f"{path}: machines.{name}"
    if not isinstance(name, str) or not name.isprintable():
        raise InventoryError(f"{where}: a machine's name is text")
    if isinstance(told, str):
        return Machine(name, _url(told, where), usual)
    if not isinstance(told, dict) or "url" not in told:
        raise InventoryError(f"{where}: write an address, or a map with `url`")
    _only(told, {"url", "key"}, where)
    key = _key(told.get("key"), f"{where}.key", path, environment)
    return Machine(name, _url(told["url"], f"{where}.url"), usual if key is None else key)


def _url(told: Any, where: str) -> str:
    parts = urlsplit(told) if isinstance(told, str) else None
    if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
        raise InventoryError(f"{where}: write an address like http://studio-01.local:1234")
    if parts.username is not None or parts.query or parts.fragment:
        raise InventoryError(f"{where}: an address holds no user, question mark or #; keys go under `key`")
    return str(told).rstrip("/")


def _key(told: Any, where: str, path: Path, environment: Mapping[str, str]) -> str | None:
    if told is None:
        return None
    match told:
        case {"env": str(name)} if len(told) == 1:
            if not environment.get(name):
                raise InventoryError(f"{where}: the environment has no {name}")
            return environment[name]
        case {"file": str(name)} if len(told) == 1:
            file = path.parent / os.path.expanduser(name)
            try:
                check_private(file)
                return file.read_text(encoding="utf-8").strip()
            except EnvFileError as error:
                raise InventoryError(f"{where}: {error}") from error
            except (OSError, UnicodeDecodeError) as error:
                raise InventoryError(f"{where}: {file} cannot be read: {error}") from error
    raise InventoryError(f"{where}: write {{env: NAME}} or {{file: PATH}}; a key itself has no place here")


def _only(data: dict[Any, Any], known: set[str], where: str) -> None:
    for name in data:
        if name not in known:
            raise InventoryError(
                f"{where}: unknown key {str(name)[:80]!r}; known are {', '.join(sorted(known))}"
            )
