"""`lmx serve`: the holder, which starts `lmx up` and keeps its sockets open from one version to the next."""

from __future__ import annotations

import os
import sys

from appliance import profiles
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, EnvFile, File, LogFile, LogForm, Profile


def serve(
    file: File = DEFAULT_FILE,
    log: LogForm = None,
    log_file: LogFile = None,
    env_file: EnvFile = None,
    profile: Profile = None,
) -> None:
    """Serve what FILE says, ready for `lmx upgrade` and `lmx switch`: what service managers start.

    As `lmx up`, under a small parent that keeps the public sockets open while another version or profile
    takes over.
    """
    try:
        profiles.existing(file, profile)
    except profiles.ProfileError as error:
        raise CliError(str(error)) from error
    words = ["--file", str(file.absolute())]
    for name, value in (
        ("--log", log.value if log is not None else None),
        ("--log-file", log_file),
        ("--env-file", env_file),
        ("--profile", None if profile == profiles.BASE else profile),
    ):
        if value is not None:
            words += [name, str(value)]
    # In place of this process, which has imported what the holder never needs.
    os.execv(sys.executable, [sys.executable, "-P", "-m", "appliance.holder", *words])
