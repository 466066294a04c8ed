"""Profiles: other files for the same machine. `night` of `lmx.yaml` is `lmx.night.yaml` beside it.

Its state lies in `profiles/night` of its `state.path`: a history, overrides and a last good spec of its own.
"""

from __future__ import annotations

import re
from pathlib import Path

BASE = "base"  # the file itself
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class ProfileError(ValueError):
    """No name of a profile, or none of this file's. The message says what to do."""


def file(base: Path, profile: str | None) -> Path:
    """The file of a profile, which need not be there. Raises ProfileError."""
    if profile is None or profile == BASE:
        return base
    if not _NAME.fullmatch(profile):
        raise ProfileError(
            f"{profile!r} is no name of a profile: letters, digits, dashes and underscores, at most 64"
        )
    return base.with_name(f"{base.stem}.{profile}{base.suffix}")


def existing(base: Path, profile: str | None) -> Path:
    """The same, and it is there. Raises ProfileError, which names those that are."""
    found = file(base, profile)
    if found == base or found.exists():
        return found
    names = sorted(
        path.name[len(base.stem) + 1 : -len(base.suffix) or None]
        for path in base.parent.glob(f"{base.stem}.*{base.suffix}")
    )
    known = f"there are {', '.join(names)}" if names else "there is none yet"
    raise ProfileError(f"there is no profile {profile!r}: {found} is not there; {known}")


def state(folder: Path, profile: str) -> Path:
    return folder / "profiles" / profile
