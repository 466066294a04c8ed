"""The API key that a verb shows. Never from the command line: every user of a machine can read that of all.

1. `LMX_API_KEY`;
2. the file that `LMX_API_KEY_FILE` names, which holds nothing else;
3. on the machine itself, where FILE told the address: a key that `server.api_keys` there holds as it is, one
   that may change things first. Where only digests are kept, there is none to take.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from appliance.cli.failure import CliError

if TYPE_CHECKING:
    from reconciler.spec import ApiKeys

VARIABLE = "LMX_API_KEY"
FILE_VARIABLE = "LMX_API_KEY_FILE"


def of_environment() -> str | None:
    """Raises CliError where the file cannot be read."""
    key = os.environ.get(VARIABLE)
    if key:
        return key.strip()
    name = os.environ.get(FILE_VARIABLE)
    if not name:
        return None
    try:
        key = Path(name).expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise CliError(f"{FILE_VARIABLE}: {name} cannot be read: {why}.") from error
    if not key or any(letter.isspace() for letter in key):
        raise CliError(f"{FILE_VARIABLE}: {name} must hold one key and nothing else.")
    return key


def of_spec(declared: ApiKeys | None, base: Path) -> str | None:
    """What cannot be read here, or by this user, is no error: the appliance says if a key is needed."""
    if declared is None:
        return None
    from appliance.access.desk import read
    from appliance.access.keyring import KeysError, in_plain

    try:
        return in_plain(read(declared, base, os.environ))
    except KeysError:
        return None
