"""A real bare repository that a test pushes to, with real git and real SSH signatures."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

NEEDED = {"git": "git", "ssh-keygen": "openssh-client"}
MISSING = [package for program, package in NEEDED.items() if shutil.which(program) is None]
needs_git = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")


class Remote:
    """`url` is what a machine follows. Commits are made in a working copy of the test's own and pushed.

    Two keys: `ann` is in the allowed_signers file, `bob` is not.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.bare, self.work = folder, folder / "fleet.git", folder / "work"
        self.signers = folder / "allowed_signers"
        self._git(folder, "init", "--quiet", "--bare", "-b", "main", str(self.bare))
        self._git(folder, "init", "--quiet", "-b", "main", str(self.work))
        self._git(self.work, "remote", "add", "origin", self.url)

    @property
    def url(self) -> str:
        return f"file://{self.bare}"

    def keys(self) -> None:
        for name in ("ann", "bob"):
            words = ("-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(self.folder / name))
            subprocess.run(["ssh-keygen", *words], check=True, stdin=subprocess.DEVNULL, capture_output=True)
        self.signers.write_text(f"ann@fleet {(self.folder / 'ann.pub').read_text()}")

    def commit(
        self, files: Mapping[str, str | bytes | None], *, by: str | None = None, message: str = "change"
    ) -> str:
        """One commit on top of the working copy's head; None deletes. by: whose key signs it."""
        for name, text in files.items():
            path = self.work / name
            if text is None:
                path.unlink()
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text if isinstance(text, bytes) else text.encode())
        self._git(self.work, "add", "--all")
        sign = ("-c", "gpg.format=ssh", "-c", f"user.signingKey={self.folder / (by or '')}") if by else ()
        option = ("-S",) if by else ("--no-gpg-sign",)
        self._git(self.work, *sign, "commit", "--quiet", "--allow-empty", *option, "-m", message)
        return self.head()

    def push(self, what: str = "HEAD:main", *, force: bool = False) -> str:
        self._git(self.work, "push", "--quiet", *(["--force"] if force else []), "origin", what)
        return self.head()

    def put(self, text: str, *, path: str = "lmx.yaml", by: str | None = None) -> str:
        """Commit this one file and push it; the commit."""
        self.commit({path: text}, by=by)
        return self.push()

    def reset(self, commit: str) -> None:
        self._git(self.work, "reset", "--quiet", "--hard", commit)

    def head(self) -> str:
        return self.git("rev-parse", "HEAD")

    def git(self, *words: str) -> str:
        """In the working copy; what it says."""
        return self._git(self.work, *words)

    def offline(self) -> None:
        self.bare.rename(self.bare.with_suffix(".away"))

    def online(self) -> None:
        self.bare.with_suffix(".away").rename(self.bare)

    def _git(self, folder: Path, *words: str) -> str:
        env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"GIT_{who}_{what}": said for who in ("AUTHOR", "COMMITTER") for what, said in _WHO},
        }
        who = ("-c", "core.hooksPath=/dev/null", "-c", "gc.auto=0")
        done = subprocess.run(
            ["git", *who, *words],
            cwd=folder,
            env=env,
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode == 0, f"git {' '.join(words)}: {done.stderr}"
        return done.stdout.strip()


_WHO = (("NAME", "Fleet"), ("EMAIL", "ann@fleet"))
