"""The file, its port, the disks it uses, the hub, and the clock."""

from __future__ import annotations

import os
import re
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.doctor.finding import Finding
from appliance.host.levels import human

if TYPE_CHECKING:
    from reconciler.spec import Git, Spec

LOW_DISK = 10 * 2**30
CLOCK_S = 120.0
HUB = "https://huggingface.co"
HUB_S = 10.0


def port(spec: Spec, *, ours: bool) -> Iterator[Finding]:
    """ours: an LMX answers there already."""
    host, number = spec.server.host, spec.server.port
    if ours:
        yield Finding("port", "ok", f"an LMX answers on port {number}")
        return
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host.strip("[]"), number))
        except OSError as error:
            yield Finding(
                "port",
                "bad",
                f"LMX could not listen on {host}:{number}: {error.strerror}",
                f"set another server.port, or find who has it: lsof -nP -iTCP:{number} -sTCP:LISTEN",
            )
            return
    yield Finding("port", "ok", f"{host}:{number} is free")


def git(settings: Git) -> Iterator[Finding]:
    """Whether the programs are there that a repository is followed with."""
    needed = ["git"] if settings.verify is None else ["git", "ssh-keygen"]
    missing = [program for program in needed if shutil.which(program) is None]
    if missing:
        fix = "install it (macOS: xcode-select --install; Debian: apt-get install git openssh-client)"
        yield Finding("git", "bad", f"{' and '.join(missing)} not found, and `git` is declared", fix)
    else:
        yield Finding("git", "ok", f"{' and '.join(needed)} there")


def disks(state: Path, cache: Path | None, hub: Path, wanted: int) -> Iterator[Finding]:
    """state, cache (None: off), hub: folders, perhaps still to be made. wanted: bytes of `cache.disk`."""
    for about, folder, need in (
        ("state", state, LOW_DISK // 10),
        ("hub cache", hub, LOW_DISK),
        ("prompt cache", cache, min(wanted, LOW_DISK)),
    ):
        if folder is None:
            continue
        there = next((path for path in (folder, *folder.parents) if path.exists()), Path("/"))
        if not os.access(there, os.W_OK):
            yield Finding(
                about, "bad", f"{there} cannot be written", "chown it to you, or name another place"
            )
            continue
        free = shutil.disk_usage(there).free
        if free < need:
            yield Finding(
                about,
                "look",
                f"{human(free)} left for {folder}",
                f"make room: {human(need)} are little",
            )
        else:
            yield Finding(about, "ok", f"{human(free)} left for {folder}")


def hub(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the model hub answers, and whether its clock is ours."""
    if environment.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on"):
        yield Finding("hub", "ok", "not asked: HF_HUB_OFFLINE is set, so only models on disk can be served")
        return
    import httpx

    asked = environment.get("HF_ENDPOINT", HUB).rstrip("/")
    url = re.sub(r"//[^/@]*@", "//", asked)  # to show: without a password
    try:
        answer = httpx.get(f"{asked}/api/models", params={"limit": 1}, timeout=HUB_S, follow_redirects=True)
        answer.raise_for_status()
    except httpx.HTTPError as error:
        why = (str(error) or type(error).__name__).replace(asked, url)
        yield Finding(
            "hub",
            "look",
            f"{url} does not answer: {why}",
            "models on disk are served all the same; for others see to the network, or set HTTPS_PROXY",
        )
        return
    yield Finding("hub", "ok", f"{url} answers")
    yield from clock(answer.headers.get("date"), time.time())


def clock(date: str | None, now: float) -> Iterator[Finding]:
    """date: a Date header."""
    try:
        off = now - parsedate_to_datetime(date or "").timestamp()
    except ValueError:
        yield Finding("clock", "unknown", "the hub does not tell the time")
        return
    if abs(off) > CLOCK_S:
        text = f"this machine's clock is {abs(off):.0f} s {'ahead' if off > 0 else 'behind'}"
        yield Finding("clock", "look", text, "set it: certificates and logs depend on it")
    else:
        yield Finding("clock", "ok", "right to within two minutes")
