"""What an exit status and a child's last words mean, in words for people. Pure but for one counter."""

from __future__ import annotations

import signal
from pathlib import Path

from appliance import wire
from appliance.errors import ApiError
from reconciler.observed import Failure

VMSTAT = Path("/proc/vmstat")
RETRY = 2.0  # seconds after which a client whose engine died may well find another
LONG_RETRY = 5.0  # the same where the engine was ended for want of memory: that takes longer to pass

STATUS = {
    wire.EXIT_OK: "which nobody asked for",
    wire.EXIT_PARENT_GONE: "it lost its connection to this program",
    wire.EXIT_PROTOCOL: "it was sent what it does not understand",
    wire.EXIT_LOAD_FAILED: "the model could not be loaded",
    wire.EXIT_CRASHED: "an error in its own loop",
}

# what allocators, Metal and Python say when memory has run out, in lower case
OUT_OF_MEMORY = (
    "insufficient memory",
    "out of memory",
    "outofmemory",
    "bad_alloc",
    "cannot allocate memory",
    "memoryerror",
    "unable to allocate",
)


def oom_kills() -> int:
    """How many processes this kernel has killed for memory since boot; 0 where it does not tell."""
    try:
        lines = VMSTAT.read_text(encoding="ascii").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("oom_kill ")), 0)


def ended(status: int, tail: bytes, stage: str, *, kernel_killed: bool = False) -> Failure:
    """Why a process that nobody told to go is gone. status: as `subprocess` has it, negative for signals.

    kernel_killed: the kernel killed something for memory while this engine ran.
    """
    words = last_words(tail)
    said = f": {words}" if words else ""
    no_memory = any(word in tail.decode("utf-8", "replace").lower() for word in OUT_OF_MEMORY)
    if status >= 0:
        meaning = f" ({STATUS[status]})" if status in STATUS else ""
        text = f"the engine exited with status {status}{meaning} in stage {stage}{said}"
        return Failure("oom" if no_memory else "exit", text)
    name = _signal_name(-status)
    text = f"the engine was ended by {name} in stage {stage}"
    if status == -signal.SIGKILL and kernel_killed:
        return Failure("oom", f"{text}: the system killed it because memory had run out{said}")
    if no_memory:
        return Failure("oom", f"{text}: out of memory{said}")
    if status == -signal.SIGKILL:
        return Failure("crash", f"{text}: killed from outside, or by the system for memory{said}")
    if status == -signal.SIGABRT:
        return Failure("crash", f"{text}: it gave up by itself, which Metal does when memory runs out{said}")
    return Failure("crash", f"{text}{said}")


def last_words(tail: bytes, lines: int = 3, width: int = 500) -> str:
    """The end of the output on one line, without what an engine logs while all is well."""
    text = [line.strip() for line in tail.decode("utf-8", "replace").splitlines()]
    text = [line for line in text if line and not line.startswith(("INFO ", "DEBUG "))]
    return " | ".join(text[-lines:])[-width:]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def epitaph(model: str, failure: Failure | None, code: str, reason: str | None) -> ApiError:
    """What the requests hear that an engine still held. code, reason: those it was stopped with."""
    if failure is not None:
        why = failure.message
    elif code != "engine_failed":  # a reason that clients know by its own name
        return ApiError(code, reason or "", retry_after=LONG_RETRY)
    else:
        why = f"it was stopped ({reason})"
    text = f"the engine of model {model} ended before the answer was complete: {why}"
    return ApiError("engine_failed", text, retry_after=RETRY)
