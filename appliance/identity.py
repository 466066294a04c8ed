"""API keys as names that tell nobody anything: a keyed hash, with a secret of this machine's own.

What is cached for one key has to be found again after a restart, so the secret lies in the state folder.
Without it nobody can try keys against the hash, and the key itself is never written down.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from hashlib import blake2b
from pathlib import Path

FILE = "secret"
SIZE = 32  # bytes of the secret
DIGEST = 16  # bytes of a hash


class Identities:
    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of(self, key: str | None) -> str:
        """32 hexadecimal digits; "" for a caller that shows no key."""
        if not key:
            return ""
        data = key.encode("utf-8", "surrogatepass")
        return blake2b(data, digest_size=DIGEST, key=self._secret, person=b"lmx caller").hexdigest()


def load(state: Path) -> Identities:
    """With the secret of this state folder, made at the first start. Raises OSError.

    A file that is not one of ours is replaced: what was cached for single keys is then not found again, and
    no more is lost.
    """
    file = state / FILE
    with contextlib.suppress(FileNotFoundError):
        held = file.read_bytes()
        if len(held) == SIZE:
            os.chmod(file, 0o600)
            return Identities(held)
    made = secrets.token_bytes(SIZE)
    new = state / f".{FILE}.{os.getpid()}"
    new.unlink(missing_ok=True)
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as opened:
        opened.write(made)
        opened.flush()
        os.fsync(opened.fileno())
    os.replace(new, file)
    return Identities(made)
