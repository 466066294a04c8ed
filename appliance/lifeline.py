"""A child process must never outlive its parent.

Its reader notices the closed socket; on Linux the kernel kills it too when the parent dies, which also
holds while native code keeps the interpreter.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> bool:
    """Ask Linux to kill this process when its parent dies. False: the parent is gone already.

    The parent may die between fork and this call, and then no signal ever comes: hence the second look.
    The kernel means the parent's *thread* that started this process, so children are started from a
    thread that lasts, such as the main one. An exec keeps the wish, a fork does not.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    return os.getppid() == parent
