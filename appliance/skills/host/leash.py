"""`python -I leash.py PARENT COMMAND...`: become COMMAND, which then dies with process PARENT.

The MCP SDK starts a server in a session of its own. Should the skill's process be killed, nothing would
end a server that does not mind its closed standard input. Stands alone: it is run by path.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    parent, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit("the process that asked for this is gone")
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(command[0], command)


if __name__ == "__main__":
    main()
