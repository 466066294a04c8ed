"""The assertion against sleep, at its boundary: a command that gets our process id and runs while we do."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import psutil
import pytest

from appliance.host.awake import kept_awake

HOLDER = (
    "import pathlib, signal, sys\n"
    "here = pathlib.Path(sys.argv[1])\n"
    "here.with_suffix('.new').write_text(sys.argv[2])\n"
    "here.with_suffix('.new').rename(here)\n"
    "{}"
    "signal.pause()\n"
)


def waited_for(told: Path, holder: int) -> str:
    process = psutil.Process(holder)
    while not told.exists():
        with pytest.raises(psutil.TimeoutExpired):  # it lives, and is given the time to write
            process.wait(0.05)
    return told.read_text()


@pytest.mark.parametrize("stubborn", [False, True])
def test_it_is_held_for_this_process_while_it_serves_and_no_longer(tmp_path: Path, stubborn: bool) -> None:
    told = tmp_path / "told"
    code = HOLDER.format("signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" if stubborn else "")
    with kept_awake([sys.executable, "-c", code, str(told)]) as holder:
        assert holder is not None
        assert waited_for(told, holder) == str(os.getpid())
        assert psutil.Process(holder).ppid() == os.getpid()
        assert os.getsid(holder) != os.getsid(0)  # Ctrl-C in the terminal does not reach it
    assert not psutil.pid_exists(holder)


def test_a_mac_without_the_command_serves_all_the_same_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "lmx.host"), kept_awake(["/nowhere/caffeinate", "-s"]) as holder:
        assert holder is None
    assert "may go to sleep" in caplog.text


@pytest.mark.skipif(sys.platform == "darwin", reason="there it is held")
def test_elsewhere_nothing_is_started() -> None:
    before = psutil.Process().children()
    with kept_awake() as holder:
        assert holder is None
        assert psutil.Process().children() == before
