"""What a service manager must know to run one LMX: pure, from a spec and a few choices.

Times fit into each other: running requests get `swap.drain_timeout`, the rest of the way down `WIND_DOWN_S`
more, and only after both (`stop_s`) may the manager kill. The environment holds no secret, because unit files
can be read by everyone: those go into a file of mode 0600 that `lmx serve --env-file` reads.

What is started is the holder (docs/upgrading.md). It passes signals on and ends after the appliance, so these
times hold for both; and its children lead sessions of their own, so a manager that ends a whole process group
when the main process is gone cannot cut short a drain.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from reconciler.spec import Spec

Kind = Literal["daemon", "agent"]  # of the whole machine, from boot on; of one user, from login on

LABEL = "lmx.appliance"
WIND_DOWN_S = 30.0  # engines end, sockets close, the last blocks of the prompt cache are written
THROTTLE_S = 10  # between two starts; launchd's own default, said aloud
FILES = 8192  # launchd gives 256 otherwise, and each connection takes one
LOG, ERRORS = "lmx.log", "lmx.err"

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,120}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASSW|CREDENTIAL", re.IGNORECASE)


class ServiceError(ValueError):
    """A service that cannot be as asked. The message says what to do."""


@dataclass(frozen=True)
class Service:
    """logs: the folder of `lmx.log`, which LMX rotates itself, and of `lmx.err`, for last words that Python
    or a library prints. None: the manager keeps the log (systemd). environment: without secrets."""

    label: str
    kind: Kind
    python: Path
    file: Path  # lmx.yaml
    user: str | None  # of a daemon
    home: Path
    logs: Path | None
    stop_s: int
    path: str
    environment: Mapping[str, str] = field(default_factory=dict)
    env_file: Path | None = None
    throttle_s: int = THROTTLE_S
    files: int = FILES

    @property
    def program(self) -> tuple[str, ...]:
        # -P: what lies in the working folder must not stand in for a module of ours
        words = [
            str(self.python),
            "-P",
            "-m",
            "appliance.holder",
            "--file",
            str(self.file),
            "--log",
            "json",
        ]
        if self.logs is not None:
            words += ["--log-file", str(self.logs / LOG)]
        if self.env_file is not None:
            words += ["--env-file", str(self.env_file)]
        return tuple(words)

    @property
    def variables(self) -> dict[str, str]:
        """The whole environment, sorted by name. LMX_SERVICE: so that a service knows that it is one."""
        own = {"HOME": str(self.home), "PATH": self.path, "LMX_SERVICE": self.label}
        return dict(sorted({**self.environment, **own}.items()))


def stop_seconds(spec: Spec) -> int:
    """How long the manager must wait before it kills."""
    return math.ceil(spec.swap.drain_timeout + WIND_DOWN_S)


def check(service: Service) -> None:
    """Raises ServiceError."""
    if not _LABEL.fullmatch(service.label):
        raise ServiceError(
            f"{service.label!r} is no label: letters, digits, dots, dashes and underscores, at most 121"
        )
    if service.kind == "daemon" and not service.user:
        raise ServiceError(
            "a daemon runs without a login, so it needs to know whose files it uses: give --user NAME"
        )
    for name, value in service.environment.items():
        if not _NAME.fullmatch(name):
            raise ServiceError(f"{name!r} is no name of an environment variable")
        if _SECRET.search(name):
            raise ServiceError(
                f"{name} looks like a secret, and everybody may read this file: put {name}=... into a file "
                f"of mode 0600 and give it with --env-file FILE"
            )
        if any(ord(character) < 32 for character in value):
            raise ServiceError(f"the value of {name} holds a control character")
    paths = {"python": service.python, "file": service.file, "home": service.home}
    paths |= {"logs": service.logs} if service.logs is not None else {}
    paths |= {"env-file": service.env_file} if service.env_file is not None else {}
    for name, path in paths.items():
        if not path.is_absolute():
            raise ServiceError(f"{name}: {path} is not an absolute path")
        if any(ord(character) < 32 for character in str(path)):
            raise ServiceError(f"{name}: {str(path)!r} holds a control character")


def unmet(spec: Spec, given: Mapping[str, str], env_file: Path | None) -> list[str]:
    """Names of LMX_* variables that the spec's text needs and that the service would not have.

    What an env file holds is not known here: with one, nothing is said to be missing.
    """
    if env_file is not None:
        return []
    text = " ".join(spec.unexpanded.values())
    return sorted({name for name in re.findall(r"\$\{(LMX_[A-Z0-9_]+)\}", text) if name not in given})
