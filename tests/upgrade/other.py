"""The `python` of an environment with another LMX in it: `... MODE -P -m appliance.cli up ...`

newer     says that it is version 9.9.9
older     knows no form of the state database but the very first
broken    cannot be imported
silent    does nothing at all
dying     is killed as soon as it takes over
"""

from __future__ import annotations

import os
import signal
import sys
import time


def main() -> int:
    mode, *words = sys.argv[1:]
    assert words[:3] == ["-P", "-m", "appliance.cli"]
    if mode == "silent":
        time.sleep(600)
    if mode == "broken":
        sys.modules["sanic"] = None  # type: ignore[assignment]
    if mode == "newer":
        import appliance

        appliance.__version__ = "9.9.9"
    if mode == "older":
        from reconciler import history

        history.FORMAT = 0
    if mode == "dying":
        from appliance.custody import Custody

        Custody.take = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign,assignment]
    from appliance.cli.__main__ import main as cli

    return cli(words[3:])


if __name__ == "__main__":
    sys.exit(main())
