"""What the process sets up for itself before anything else runs."""

from __future__ import annotations

import ctypes
import ctypes.util
import signal
import sys

OPENBLAS = "libopenblas.so.0"


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
