"""Writes into a socket that another process holds: no code in that process takes part."""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import subprocess
import sys

import psutil

from tests.chaos.appliance import Missed

_PIDFD_GETFD = 438  # the same on every architecture of Linux


def possible() -> bool:
    """Linux 5.6 or newer, and we may look into our own children."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    ours, theirs = socket.socketpair()
    with ours, theirs:
        child = subprocess.Popen(["sleep", "60"], pass_fds=(theirs.fileno(),))
        try:
            os.close(_take(child.pid, theirs.fileno()))
        except OSError:
            return False
        finally:
            child.kill()
            child.wait()
    return True


def inject(engine: psutil.Process, data: bytes) -> None:
    """As if the engine had sent `data` to its parent. Raises Missed where the engine is gone."""
    try:
        words = engine.cmdline()
        fd = _take(engine.pid, int(words[words.index("--fd") + 1]))
    except (psutil.NoSuchProcess, ValueError, ProcessLookupError) as error:
        raise Missed(f"the engine has ended: {error}") from error
    with socket.socket(fileno=fd) as sock:
        try:
            sock.sendall(data)
        except OSError as error:
            raise Missed(f"its connection has ended: {error}") from error


def _take(pid: int, fd: int) -> int:
    """A descriptor of ours for what `fd` is in the process `pid`."""
    libc = ctypes.CDLL(None, use_errno=True)
    handle = os.pidfd_open(pid)
    try:
        found: int = libc.syscall(_PIDFD_GETFD, handle, fd, 0)
    finally:
        os.close(handle)
    if found < 0:
        number = ctypes.get_errno()
        if number == 9:  # EBADF: it has closed it
            raise ProcessLookupError(number, f"process {pid} has no descriptor {fd}")
        raise OSError(number, f"{os.strerror(number)} ({platform.release()})")
    return found
