"""One call of the `git` binary: bounded in time and output, never asking anybody, never running a hook.

What LMX decides is passed as `-c`, above every configuration file; system-wide files are not read. The
user's own file is, because that is where credentials are found (`credential.helper`, `core.sshCommand`),
and those are git's business. What a repository could use to run something (hooks, submodules, filters,
`ext::` transports, replaced objects) is off, and no working tree is ever made.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from reconciler import names

LOCAL_S = 20.0  # a look into the clone
MOST_BYTES = 4 * 2**20  # of either stream of one call
SIZE_LOOK_S = 0.25

_SETTINGS = (
    *("core.hooksPath=/dev/null", "core.fsmonitor=false", "core.attributesFile=/dev/null"),
    *("protocol.allow=never", "protocol.https.allow=always", "protocol.http.allow=always"),
    *("protocol.ssh.allow=always", "protocol.git.allow=always", "protocol.ext.allow=never"),
    *("submodule.recurse=false", "fetch.recurseSubmodules=false", "fetch.fsckObjects=true"),
    *("transfer.fsckObjects=true", "gc.auto=0", "maintenance.auto=false", "fetch.writeCommitGraph=false"),
    *("http.lowSpeedLimit=1000", "http.lowSpeedTime=20", "advice.detachedHead=false"),
    *("core.askPass=", "log.showSignature=false", "transfer.bundleURI=false"),
)
_KEPT = ("GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_ASKPASS", "GIT_CONFIG_GLOBAL")


# Lines that say why; the others are progress and advice.
_TELLING = re.compile(r"^(fatal|error|ssh):|Permission denied|Host key verification|REMOTE HOST IDENT")


class GitError(Exception):
    """A call that failed. reason: in CamelCase, for conditions. The message is fit to be shown."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class Result:
    status: int
    out: bytes
    err: str  # fit to be shown: one line, without passwords


def environment(env: Mapping[str, str]) -> dict[str, str]:
    """What git gets of ours: nothing that would steer it elsewhere, and none of LMX's own secrets."""
    kept = {
        name: value
        for name, value in env.items()
        if name in _KEPT or not name.startswith(("GIT_", "LMX_", "DISPLAY", "WAYLAND_DISPLAY"))
    }
    return {
        **kept,
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_OPTIONAL_LOCKS": "0",
        "GIT_LITERAL_PATHSPECS": "1",
        "GIT_LFS_SKIP_SMUDGE": "1",
        "GCM_INTERACTIVE": "never",
        "SSH_ASKPASS_REQUIRE": "never",
        "LC_ALL": "C",
    }


async def call(
    folder: Path | None, *words: str, limit_s: float = LOCAL_S, settings: tuple[str, ...] = ()
) -> Result:
    """Run `git WORDS` on the bare repository `folder`. Raises GitError where it cannot run or end in time.

    An exit status other than 0 is the caller's to judge.
    """
    options = [part for setting in (*_SETTINGS, *settings) for part in ("-c", setting)]
    where = [f"--git-dir={folder}"] if folder is not None else []
    # Files and not pipes: what ssh leaves running (ControlPersist) would hold a pipe open for hours.
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = await asyncio.create_subprocess_exec(
                *("git", "--no-pager", *where, *options, *words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment(os.environ),
                cwd="/",
                start_new_session=True,  # no terminal to ask on, and what it starts ends with it
            )
        except FileNotFoundError:
            raise GitError(
                "GitMissing", "the program git is not installed; install it, then: lmx reconcile"
            ) from None
        except OSError as error:
            raise GitError("GitMissing", f"the program git cannot be started: {error.strerror}") from error
        try:
            async with asyncio.timeout(limit_s):
                await _ended(process, words[0], out, err)
        except TimeoutError:
            raise GitError("GitTimeout", f"git {words[0]} had not ended after {limit_s:g} s") from None
        finally:
            await _end(process)
        assert process.returncode is not None
        found = [os.pread(file.fileno(), MOST_BYTES, 0) for file in (out, err)]
        return Result(process.returncode, found[0], shown(found[1].decode("utf-8", "replace")))


async def _ended(process: asyncio.subprocess.Process, word: str, *files: IO[bytes]) -> None:
    """Wait for its end. Raises GitError where it has more to say than anybody will read."""
    waiting = asyncio.ensure_future(process.wait())
    try:
        done = False
        while not done:
            done = bool((await asyncio.wait({waiting}, timeout=SIZE_LOOK_S))[0])
            if any(os.fstat(file.fileno()).st_size > MOST_BYTES for file in files):
                raise GitError("GitFailed", f"git {word} said more than {MOST_BYTES} bytes")
    finally:
        waiting.cancel()


async def _end(process: asyncio.subprocess.Process) -> None:
    """All of its group, if it is still there: ssh and helpers it started as well."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await asyncio.shield(process.wait())


def shown(text: str) -> str:
    """What git said, as one line that may be logged: no passwords, nothing a terminal would act on."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    told = [line for line in lines if _TELLING.search(line)] or lines[-2:]
    line = re.sub(r"(\w+://)[^/@\s']*@", r"\1", "; ".join(told))
    line = "".join(letter if letter.isprintable() else " " for letter in line)
    return line if len(line) <= 300 else f"{line[:297]}..."


def address(url: str) -> str:
    """A repository's address, fit to be shown."""
    return names.without_user(url)
