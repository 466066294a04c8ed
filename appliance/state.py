"""Where this appliance keeps its state, also when the file that says so is broken.

`state.path` lives in the file. So that a start with a broken file finds the last good spec, each start
with a valid one leaves a note in the user's default folder: this file uses that state folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

from reconciler.spec import Spec

log = logging.getLogger("lmx.state")

DEFAULT = "~/.lmx"


def folder(file: Path, spec: Spec | None) -> Path:
    """The state folder of this spec file. spec None: the file cannot be used now, so the note decides."""
    if spec is None:
        return _noted(file) or Path(DEFAULT).expanduser()
    found = file.parent / Path(spec.state.path).expanduser()
    _note(file, found)
    return found


def _place(file: Path) -> Path:
    name = hashlib.sha256(os.fsencode(file)).hexdigest()[:24]
    return Path(DEFAULT).expanduser() / "where" / f"{name}.json"


def _noted(file: Path) -> Path | None:
    try:
        note = json.loads(_place(file).read_text(encoding="utf-8"))
        return Path(note["state"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("the note about the state folder of %s cannot be read: %s", file, error)
        return None


def _note(file: Path, state: Path) -> None:
    place = _place(file)
    if _noted(file) == state or state == Path(DEFAULT).expanduser():
        return
    try:
        place.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        new = place.with_suffix(f".{os.getpid()}")
        new.write_text(json.dumps({"file": str(file), "state": str(state)}), encoding="utf-8")
        os.replace(new, place)
    except OSError as error:
        log.warning(
            "%s cannot be written (%s): a start with a broken file will not find %s", place, error, state
        )
