"""Looks at each caller's key, and keeps the keys as the spec's file or variable holds them.

The file is read again and again, never trusted by its times, and small: each pass of the loop and each
second. What is new counts when it is the same twice, so that half of a save is nobody's lockout. What cannot
be taken leaves the keys that were; before there were any, nobody is let in.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.access.keyring import Key, Keyring, KeysError, digest_of, parse
from appliance.access.limits import Allowance, Charge
from appliance.access.throttle import Throttle
from appliance.errors import ApiError

if TYPE_CHECKING:
    from reconciler.spec import ApiKeys

MAX_BYTES = 256 * 1024
_NEVER = "\x00"


class Access:
    """base: where relative paths of the spec start. told: one line for the log and the timeline."""

    def __init__(
        self,
        base: Path,
        environ: Mapping[str, str] | None = None,
        told: Callable[[str], None] = lambda _: None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._base, self._told, self._clock = base, told, clock
        self._environ = os.environ if environ is None else environ
        self._throttle = Throttle(clock)
        self._ring = Keyring()
        self._allowances: dict[str, Allowance] = {}
        self._of: ApiKeys | None = None  # what was read last
        self._content = _NEVER  # what has been taken, or judged
        self._seen = _NEVER  # what the last look found
        self._problem: str | None = None

    @property
    def allowances(self) -> Mapping[str, Allowance]:
        """By the names of the keys in force."""
        return self._allowances

    # --- the keys ---------------------------------------------------------------------------------

    def look(self, declared: ApiKeys | None, models: Collection[str] = ()) -> str | None:
        """Read the keys if they have changed. What is wrong with them, in words; None: nothing.

        models: of the spec, to tell of names in the keys that it does not have.
        """
        if declared is None:
            if self._of is not None:
                self._of, self._problem = None, None
                self._content = self._seen = _NEVER
                self._take(Keyring())
            return None
        try:
            content = read(declared, self._base, self._environ)
        except KeysError as error:
            if declared != self._of or str(error) != self._problem:
                self._of, self._content, self._seen = declared, _NEVER, _NEVER
                self._fail(str(error))
            return self._problem
        fresh = declared != self._of or (self._content == _NEVER and self._seen == _NEVER)
        settled, self._seen, self._of = content == self._seen, content, declared
        if content != self._content and (fresh or settled):
            self._content = content
            try:
                ring = parse(content)
            except KeysError as error:
                self._fail(f"{_where(declared)}: {error}")
            else:
                self._problem = None
                self._take(ring)
                self._told(_summary(ring, declared, models))
        return self._problem

    def _fail(self, problem: str) -> None:
        kept = f"; the {len(self._ring.keys)} keys read before stay in force" if self._ring.keys else ""
        self._problem = problem
        self._told(f"the API keys cannot be read: {problem}{kept or '; nobody is let in'}")

    def _take(self, ring: Keyring) -> None:
        before, self._ring, self._allowances = self._allowances, ring, {}
        for key in ring.keys:
            allowance = before.get(key.name)
            if allowance is None:
                allowance = Allowance(key, self._clock)
            else:
                allowance.follow(key)
            self._allowances[key.name] = allowance

    # --- callers ----------------------------------------------------------------------------------

    def enter(self, declared: ApiKeys, shown: str | None, address: str) -> Key:
        """The key that somebody at this address shows. Raises ApiError: unauthorized or rate_limited."""
        if declared != self._of:  # the spec has just changed, and no pass has looked yet
            self.look(declared)
        key = None if shown is None else self._ring.find(shown)
        wait = self._throttle.wait(address)
        if key is not None and (not wait or self._throttle.known(address, key.name)):
            self._throttle.right(address, key.name)
            return key
        if shown is not None:
            if wait:
                text = "too many wrong API keys came from this address; the next one is looked at later"
                raise ApiError("rate_limited", text, retry_after=wait)
            self._throttle.failed(address, digest_of(shown))
        if not self._ring.keys:
            text = "nobody can be let in: the API keys of this machine cannot be read; its log says why"
        elif shown is None:
            text = "an API key is needed: send it as 'Authorization: Bearer KEY' or 'x-api-key: KEY'"
        else:
            text = "this API key is not known here"
        raise ApiError("unauthorized", text)

    def charge(self, key: Key, size: int) -> Charge:
        """A request that generates begins. Raises ApiError with rate_limited. size: bytes of its body."""
        allowance = self._allowances.get(key.name)
        if allowance is None or allowance.key.digest != key.digest:  # the keys have changed since it came in
            raise ApiError("unauthorized", "this API key is no longer known here")
        return allowance.open(size)


def read(declared: ApiKeys, base: Path, environ: Mapping[str, str]) -> str:
    """The text that holds the keys. base: where relative paths start. Raises KeysError."""
    if declared.env is None:
        return _file(base / Path(declared.file or "").expanduser())
    value = environ.get(declared.env)
    if value is None:
        raise KeysError(
            f"the environment variable {declared.env} (server.api_keys.env) is not set; "
            "set it where `lmx up` starts"
        )
    return value


def _file(path: Path) -> str:
    """Raises KeysError: no such file, not a plain one, open to others, too long, no text."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise KeysError(f"server.api_keys.file {path}: {error.strerror or error}") from None
    try:
        _check(path, os.fstat(handle))
        data = b""
        while len(data) <= MAX_BYTES and (part := os.read(handle, MAX_BYTES + 1 - len(data))):
            data += part
    except OSError as error:
        raise KeysError(f"server.api_keys.file {path}: {error.strerror or error}") from None
    finally:
        os.close(handle)
    if len(data) > MAX_BYTES:
        raise KeysError(f"server.api_keys.file {path} is longer than {MAX_BYTES} bytes; is it the right one?")
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise KeysError(f"server.api_keys.file {path} is not UTF-8") from None


def _check(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise KeysError(f"server.api_keys.file {path} is no regular file")
    if status.st_uid not in (0, os.geteuid()):
        raise KeysError(f"server.api_keys.file {path} belongs to another user; chown it to this one")
    if status.st_mode & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise KeysError(
            f"server.api_keys.file {path} is open to other users (mode {mode:04o}); run: chmod 600 {path}"
        )


def _where(declared: ApiKeys) -> str:
    if declared.env is not None:
        return f"server.api_keys.env {declared.env}"
    return f"server.api_keys.file {declared.file}"


def _summary(ring: Keyring, declared: ApiKeys, models: Collection[str]) -> str:
    admins = sum(key.admin for key in ring.keys)
    text = f"{_where(declared)}: {len(ring.keys)} API keys are in force, {admins} of them may change things"
    unknown = sorted({name for key in ring.keys for name in key.models or ()} - set(models)) if models else []
    return f"{text}; no such model: {', '.join(unknown)}" if unknown else text
