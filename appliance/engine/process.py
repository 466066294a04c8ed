"""What the process sets up for itself before anything else runs.

An engine must never outlive its parent: the reader thread notices the closed socket, and on Linux the
kernel kills the engine when the parent dies, which also holds while native code keeps the interpreter.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
OPENBLAS = "libopenblas.so.0"


def die_with_parent(parent: int) -> bool:
    """Ask Linux to kill this process when its parent dies. False: the parent is gone already.

    The parent may die between fork and this call, and then no signal ever comes: hence the second look.
    The kernel means the parent's *thread* that started this process, so engines are started from a
    thread that lasts, such as the main one.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl(PR_SET_PDEATHSIG): {os.strerror(number)}")
    return os.getppid() == parent


def ignore_terminal_interrupts() -> None:
    """^C reaches the whole process group; only the parent decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def load_openblas() -> str | None:
    """Make OpenBLAS the BLAS that MLX's CPU backend binds to; must run before `import mlx.core`.

    The registry's Linux build of MLX carries a reference BLAS, 3 to 6 GFLOP/s on two cores against
    70 to 98 with OpenBLAS. Returns the library's name, None where there is none (or none is needed).
    """
    if sys.platform != "linux":
        return None
    if "mlx.core" in sys.modules:
        raise RuntimeError("OpenBLAS must be loaded before mlx.core is imported")
    for name in (OPENBLAS, ctypes.util.find_library("openblas")):
        if name is None:
            continue
        try:
            ctypes.CDLL(name, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue  # not this one; Loaded.blas reports None when none can be loaded
        return name
    return None
