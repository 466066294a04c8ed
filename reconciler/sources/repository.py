"""A bare clone in the state folder: fetched into, read from, and nothing else.

There is no working tree, so nothing in the repository (links, hooks, filters, submodules) can reach a file
of this machine: what a commit holds is read from its objects. Two references keep what is needed from being
collected: `refs/lmx/head`, the branch as it was last seen, and `refs/lmx/taken`, the commit that runs. The
clone is a cache: one that is damaged is thrown away and fetched anew, while what runs goes on.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from reconciler.loader import layers
from reconciler.loader.layers import Layer, NoBase
from reconciler.loader.tree import MAX_BYTES
from reconciler.sources.choosing import MOST, Relation
from reconciler.sources.git_process import GitError, Result, address, call

LOOK_S = 30.0  # at the remote's references
FETCH_S = 300.0
HEAD, TAKEN = "refs/lmx/head", "refs/lmx/taken"
REFUSING_OTHERS = (
    *("gpg.format=ssh", "gpg.ssh.program=ssh-keygen", "gpg.minTrustLevel=fully"),
    *("gpg.program=false", "gpg.openpgp.program=false", "gpg.x509.program=false"),
)
_GOOD = re.compile(r'Good "git" signature for (\S+) with (\S+) key (SHA256:\S+)')


@dataclass(frozen=True)
class Signature:
    """signer: the principal in the allowed_signers file; None: not accepted, and why."""

    signer: str | None
    why: str = ""


class Repository:
    """One remote's clone. Every method may raise GitError."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self._url = folder, url
        self._transport = ("protocol.file.allow=always",) if url.startswith("file://") else ()

    async def open(self) -> None:
        """Make the clone, if there is none that works."""
        if self.folder.is_dir():
            found = await call(self.folder, "rev-parse", "--is-bare-repository")
            if found.status == 0 and found.out.strip() == b"true":
                return
            shutil.rmtree(self.folder)
        self.folder.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = self.folder.with_name(f"{self.folder.name}.new")
        shutil.rmtree(new, ignore_errors=True)
        done = await call(None, "init", "--quiet", "--bare", "--template=", str(new))
        _check(done, "GitFailed", f"no clone could be made in {self.folder.parent}")
        new.rename(self.folder)

    def throw_away(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    # --- the remote --------------------------------------------------------------------------------

    async def remote(self, ref: str) -> tuple[str, str]:
        """(full name, object) of a branch, else of a tag, as the remote has it now."""
        full = [ref] if ref.startswith("refs/") else [f"refs/heads/{ref}", f"refs/tags/{ref}"]
        done = await self._far("ls-remote", "--quiet", "--", self._url, *full, limit_s=LOOK_S)
        _reached(done, f"{address(self._url)} does not answer")
        lines = (line.split("\t", 1) for line in done.out.decode("utf-8", "replace").splitlines())
        there = {words[1]: words[0] for words in lines if len(words) == 2}
        for name in full:
            if name in there:
                return name, there[name]
        raise GitError("RefMissing", f"{address(self._url)} has no branch and no tag {ref!r}; see git.ref")

    async def fetch(self, name: str) -> str:
        """Get a reference with its history; the commit it stands for."""
        done = await self._fetch(f"+{name}:{HEAD}")
        _reached(done, f"{name} could not be fetched from {address(self._url)}")
        return await self._commit(HEAD)

    async def fetch_commit(self, commit: str) -> str:
        """Make sure that a pinned commit is here: by its name, or where that is not served, with all."""
        if not await self.has(commit):
            done = await self._fetch(f"+{commit}:{HEAD}")
            if done.status != 0:
                done = await self._fetch(
                    "+refs/heads/*:refs/lmx/all/heads/*", "+refs/tags/*:refs/lmx/all/tags/*"
                )
                _reached(done, f"{commit[:12]} could not be fetched from {address(self._url)}")
            if not await self.has(commit):
                raise GitError("RefMissing", f"{address(self._url)} has no commit {commit}; see git.ref")
        return await self._commit(commit)

    async def _fetch(self, *what: str) -> Result:
        quiet = (
            "--quiet",
            "--no-tags",
            "--no-recurse-submodules",
            "--no-write-fetch-head",
            "--no-auto-maintenance",
        )
        return await self._far("fetch", *quiet, "--", self._url, *what, limit_s=FETCH_S)

    async def _far(self, *words: str, limit_s: float) -> Result:
        return await call(self.folder, *words, limit_s=limit_s, settings=self._transport)

    # --- history -----------------------------------------------------------------------------------

    async def has(self, commit: str) -> bool:
        return (await call(self.folder, "cat-file", "-e", f"{commit}^{{commit}}")).status == 0

    async def relation(self, current: str | None, head: str) -> Relation:
        """Where the head lies from what runs. A commit that is not here any more is not before the head."""
        if current is None:
            return "elsewhere"
        if current == head:
            return "same"
        if not await self.has(current):
            return "elsewhere"
        done = await call(self.folder, "merge-base", "--is-ancestor", current, head)
        return "after" if done.status == 0 else "elsewhere"

    async def line(self, current: str | None, head: str) -> list[str]:
        """The head and its first parents, back to what runs, newest first; MOST at most."""
        behind = [f"^{current}"] if current is not None and await self.has(current) else []
        done = await call(self.folder, "rev-list", "--first-parent", f"--max-count={MOST}", head, *behind)
        _check(done, "GitFailed", "the clone cannot be read")
        return done.out.decode().split() or [head]

    async def keep(self, commit: str) -> None:
        """From now on this is the commit that runs."""
        _check(
            await call(self.folder, "update-ref", TAKEN, commit), "GitFailed", "the clone cannot be written"
        )

    async def tidy(self) -> None:
        """Drop what no branch leads to any more."""
        await call(self.folder, "gc", "--quiet", "--prune=now", limit_s=FETCH_S)

    async def _commit(self, name: str) -> str:
        done = await call(
            self.folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{name}^{{commit}}"
        )
        found = done.out.decode().strip()
        if done.status != 0 or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", found):
            raise GitError(
                "RefMissing", "git.ref names no commit; name a branch, a tag of a commit, or a commit"
            )
        return found

    # --- a commit ----------------------------------------------------------------------------------

    async def layers(self, commit: str, path: str) -> list[Layer]:
        """The file at `path` and the bases it extends, lowest first. Raises NoBase where it is not there."""
        files, failed = {path: await self._blob(commit, path)}, dict[str, str]()
        while True:  # a chain is put together without waiting, so each turn has one file more
            missing: list[str] = []

            def read(at: str, said: str, missing: list[str] = missing) -> tuple[str, bytes]:
                name = layers.beside(at, said)
                if name in failed:
                    raise NoBase(failed[name])
                if name not in files:
                    missing.append(name)
                return name, files.get(name, b"")

            found = layers.chain(path, files[path], "git", read)
            if not missing:
                return found
            try:
                files[missing[0]] = await self._blob(commit, missing[0])
            except NoBase as error:
                failed[missing[0]] = str(error)

    async def _blob(self, commit: str, path: str) -> bytes:
        """Raises NoBase where it is no plain file."""
        done = await call(self.folder, "ls-tree", "-z", "-l", "--full-tree", commit, "--", path)
        _check(done, "GitFailed", "the clone cannot be read")
        about, _, name = done.out.decode("utf-8", "replace").partition("\0")[0].partition("\t")
        words = about.split()
        if name != path or len(words) != 4:
            raise NoBase(f"the commit has no file {path}")
        mode, kind, blob, size = words
        if mode == "120000":
            raise NoBase(
                f"{path} is a link in the commit; links are not followed there, name the file itself"
            )
        if kind != "blob":
            raise NoBase(f"{path} is no file in the commit")
        if int(size) > MAX_BYTES:
            raise NoBase(f"{path} has {size} bytes in the commit; at most {MAX_BYTES} are read")
        done = await call(self.folder, "cat-file", "blob", blob)
        _check(done, "GitFailed", "the clone cannot be read")
        return done.out

    async def signature(self, commit: str, signers: Path) -> Signature:
        """Whether one of the signers has signed this commit, with an SSH key."""
        try:
            with signers.open("rb"):
                pass
        except OSError as error:
            return Signature(None, f"{signers}: {error.strerror}; see git.verify.allowed_signers")
        settings = (*REFUSING_OTHERS, f"gpg.ssh.allowedSignersFile={signers}")
        done = await call(self.folder, "verify-commit", "--raw", commit, settings=settings)
        found = _GOOD.search(done.err)
        if done.status == 0 and found is not None:
            return Signature(found[1])
        if not done.err:
            return Signature(None, "it is not signed")
        if "No principal matched" in done.err or "Could not verify" in done.err or found is not None:
            return Signature(None, f"its signer is none of those in {signers}")
        return Signature(None, f"its signature does not hold: {done.err}")


# What git and ssh say in English, which `environment` asks for: reason, and what a person can do.
_REFUSALS = (
    (
        r"certificate|Host key verification failed|REMOTE HOST IDENTIFICATION",
        "GitUntrusted",
        "tell git whom to trust: http.sslCAInfo or GIT_SSL_CAINFO for https, ~/.ssh/known_hosts for ssh",
    ),
    (
        r"could not read (?:Username|Password)|Authentication failed|Permission denied \(|error: 40[13]\b",
        "GitUnauthorized",
        (
            "give git what the server asks for: credential.helper or ~/.netrc for https, a key without a "
            "passphrase or an agent for ssh, of the user that LMX runs as"
        ),
    ),
)


def _reached(done: Result, what: str) -> None:
    """Raises GitError where a call to the remote failed."""
    for words, reason, way in _REFUSALS:
        if done.status != 0 and re.search(words, done.err):
            raise GitError(reason, f"{what}: {done.err}; {way}")
    _check(done, "GitUnreachable", what)


def _check(done: Result, reason: str, what: str) -> None:
    if done.status != 0:
        raise GitError(reason, f"{what}: {done.err or f'git ended with {done.status}'}")
