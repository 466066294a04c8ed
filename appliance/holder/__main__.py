"""`python -m appliance.holder`: what launchd and systemd start. Takes the options of `lmx up` but --record.

Exit status: 0 when it was told to stop or the appliance was; that of an appliance that never served; 1 where
it cannot begin.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from appliance.holder.child import Command
from appliance.holder.desk import Desk
from appliance.holder.holder import Holder
from appliance.holder.place import Place, Taken

PAUSE_S = 1.0  # after a fault of ours
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


def main(words: Sequence[str]) -> int:
    options = _options(words)
    file = Path(options.file).absolute()
    passed = ["--file", str(file)]
    for name in ("log", "log_file", "env_file"):
        value = getattr(options, name)
        if value is not None:
            passed += [f"--{name.replace('_', '-')}", value]
    own = Command(sys.executable, tuple(passed), options.profile)
    log = _log(options.log, options.log_file)
    place = Place(file)
    try:
        sock = place.listen()
    except (Taken, OSError) as error:
        log(f"cannot begin: {error}")
        return 1
    woken = _signals()
    note = place.recall()
    command = _chosen(own, note, log)

    def remember(now: Command, last: dict[str, Any]) -> None:
        try:
            place.remember({"file": str(file), "started_as": own.argv, "last": last, **now.named})
        except OSError as error:
            log(f"what was chosen cannot be written down, and is forgotten at the next start: {error}")

    holder = Holder(command, note.get("last"), remember, log)
    desk = Desk(sock, holder, log)

    def take_signals() -> None:
        for number in woken.recv(64):
            if number != signal.SIGCHLD:
                holder.signalled(number)

    holder.selector.register(woken, selectors.EVENT_READ, take_signals)
    try:
        holder.begin()
        while (code := _poll(holder, desk, log)) is None:
            pass
    except OSError as error:
        log(f"{command.python} cannot be started: {error}")
        return 1
    finally:
        place.close()
    log(f"ends with status {code}")
    return code


def _poll(holder: Holder, desk: Desk, log: Callable[[str], None]) -> int | None:
    try:
        code = holder.poll()
        desk.look()
    except Exception:  # noqa: BLE001 - a fault of ours must not close the sockets
        log(f"please report this: {traceback.format_exc()}")
        time.sleep(PAUSE_S)
        return None
    return code


def _options(words: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="lmx serve", allow_abbrev=False)
    parser.add_argument("-f", "--file", default=os.environ.get("LMX_FILE", "lmx.yaml"))
    parser.add_argument("--profile")
    parser.add_argument("--log", choices=("text", "json"))
    parser.add_argument("--log-file")
    parser.add_argument("--env-file")
    return parser.parse_args(words)


def _chosen(own: Command, note: dict[str, Any], log: Callable[[str], None]) -> Command:
    """What was switched or upgraded to, unless the service was installed anew since."""
    python, profile = note.get("python"), note.get("profile")
    if note.get("started_as") != own.argv or not isinstance(python, str):
        return own
    if not os.access(python, os.X_OK):
        log(f"{python}, which served last, is not there any more; {own.python} is started")
        python = own.python
    if (python, profile) != (own.python, own.profile):
        log(f"goes on with what was chosen last: {python}, profile {profile or 'base'}")
    return Command(python, own.words, profile if isinstance(profile, str) else None)


def _signals() -> socket.socket:
    """A socket that gives the number of each signal that comes."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    theirs.setblocking(False)
    for number in SIGNALS:
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(theirs.detach(), warn_on_full_buffer=False)
    return ours


def _log(style: str | None, file: str | None) -> Callable[[str], None]:
    """One line at a time, in the form of the appliance's own log, which rotates: it is opened anew."""
    as_json = style == "json" or (style is None and not sys.stderr.isatty())

    def write(text: str) -> None:
        now = time.time()
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
        line = f"{moment} lmx.holder {text}"
        if as_json:
            line = json.dumps({"ts": moment, "level": "info", "logger": "lmx.holder", "msg": text})
        try:
            if file is None:
                os.write(2, line.encode() + b"\n")
                return
            number = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                os.write(number, line.encode() + b"\n")
            finally:
                os.close(number)
        except OSError:
            return  # a full disk, or nobody who reads: to keep the sockets open matters more

    return write


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
