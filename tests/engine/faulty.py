"""The real engine with faults that can be switched on while it runs: for tests of what must survive it.

    python -m tests.engine.faulty --faults FILE --fd N

takes the place of `python -m appliance.engine` (`House.command`). FILE, or what LMX_TEST_FAULTS names, is
read 50 times a second and holds one JSON object; where it is absent or empty the engine is healthy again.
Engines get a clean environment from their parent, so there the argument is the way. Write the file whole
(to a temporary name, then rename); `write` does.

    model, pid      only the engine of this model, or of this process id
    take            true: the first engine it concerns renames FILE to FILE.taken, so its successor is healthy
    stage           start the one-time faults only once the engine is in this stage ("prefill", "decode" ...)
    allocate        MiB per second, without end, every page touched; `kind`: "bytes" (default) or "mlx"
    sleep           seconds before each decode step and each chunk of a prompt
    hang            a stage in which the computing thread stops for good: "load", "prefill", "decode"
    silent          true: no more beats; what else it sends goes on
    garbage         true: bytes that are no frame, once
    half            true: the beginning of a frame and then nothing, once; later frames follow inside it
    exit            end with this status, without a word
    signal          end by this signal, by number: 6 is what Metal's abort looks like
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from appliance import wire
from appliance.engine import __main__ as engine
from appliance.engine import beat
from appliance.engine.link import Link

VARIABLE = "LMX_TEST_FAULTS"
LOOK = 0.02  # seconds between two looks at the file
MIB = 2**20


def write(file: Path, **faults: Any) -> None:
    """Switch faults on, for tests; without any, off."""
    whole = file.with_name(f"{file.name}.new")
    whole.write_text(json.dumps(faults), encoding="utf-8")
    whole.replace(file)


def check(faults: Any) -> dict[str, Any]:
    """Raises ValueError: a fault that is spelt wrong would test nothing."""
    known = {"model", "pid", "take", "stage", "allocate", "kind", "sleep", "hang", "silent"}
    known |= {"garbage", "half", "exit", "signal"}
    if not isinstance(faults, dict) or not faults.keys() <= known:
        raise ValueError(f"not faults: {faults!r}")
    return faults


class Faults:
    """What is switched on now. Looked at by the engine's own threads, written by `watch`."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.now: dict[str, Any] = {}
        self.model = ""
        self.stage = "start"
        self.link: Link | None = None
        self._held: list[Any] = []
        self._done: set[str] = set()  # one-time faults of the present file
        self._text = ""

    # -- what the engine's threads run into -----------------------------------------------------------

    def enter(self, stage: str) -> None:
        """The computing thread begins something."""
        self.stage = stage
        if self.now.get("hang") == stage:
            threading.Event().wait()
        if stage in ("prefill", "decode"):
            time.sleep(self.now.get("sleep", 0.0))

    def send(self, link: Link, message: wire.FromEngine, send: Any) -> None:
        self.link = link
        if isinstance(message, wire.Beat) and self.now.get("silent"):
            return
        send(link, message)

    # -- the watching thread --------------------------------------------------------------------------

    def watch(self) -> None:
        while True:
            self._look()
            self._once()
            rate = self.now.get("allocate", 0)
            if rate:
                self._allocate(rate)
            else:
                time.sleep(LOOK)

    def _look(self) -> None:
        if self.now.get("take"):
            return  # they are ours for good
        try:
            text = self.file.read_text(encoding="utf-8")
        except FileNotFoundError:
            text = ""
        if text == self._text:
            return
        if self.model == "" and '"model"' in text:
            return  # not known yet whether it means us
        self._text, self._done = text, set()
        faults = check(json.loads(text or "{}"))
        ours = faults.get("model", self.model) == self.model and faults.get("pid", os.getpid()) == os.getpid()
        if ours and faults.get("take"):
            try:
                self.file.rename(self.file.with_name(f"{self.file.name}.taken"))
            except FileNotFoundError:
                ours = False  # another engine was first
        self.now = faults if ours else {}

    def _once(self) -> None:
        if self.now.get("stage", self.stage) != self.stage:
            return
        for name in ("garbage", "half", "exit", "signal"):
            if name in self.now and name not in self._done:
                self._done.add(name)
                self._do(name, self.now[name])

    def _do(self, name: str, value: Any) -> None:
        print(f"fault: {name} {value}", file=sys.stderr, flush=True)
        if name == "exit":
            os._exit(int(value))
        if name == "signal":
            os.kill(os.getpid(), int(value))
        elif self.link is not None:
            frame = wire.encode(wire.Progress(1, 1))
            data = b"\x08\x00\x00\x00garbage!" if name == "garbage" else frame[: len(frame) // 2]
            with self.link._sending:
                self.link._sock.sendall(data)

    def _allocate(self, rate: float) -> None:
        """One tenth of a second's worth."""
        size = max(1, int(rate * MIB / 10))
        if self.now.get("kind") == "mlx":
            mx: Any = sys.modules.get("mlx.core")
            if mx is not None and self.stage not in ("start", "load"):
                with mx.stream(mx.new_stream(mx.default_device())):
                    self._held.append(mx.full((size,), 1, dtype=mx.uint8))
                    mx.eval(self._held[-1])
        else:
            self._held.append(bytearray(b"\x01") * size)
        time.sleep(0.1)


def install(faults: Faults) -> None:
    """Put the faults into the engine, before it begins; needs no MLX."""
    enter, send, receive = beat.Gauge.enter, Link.send, Link.receive

    def entering(gauge: beat.Gauge, stage: wire.Stage) -> None:
        enter(gauge, stage)
        faults.enter(stage)

    def sending(link: Link, message: wire.FromEngine) -> None:
        faults.send(link, message, send)

    def receiving(link: Link) -> wire.ToEngine:
        message = receive(link)
        if isinstance(message, wire.Load):
            faults.model = message.model
        return message

    patched: Any = (beat.Gauge, Link)
    patched[0].enter, patched[1].send, patched[1].receive = entering, sending, receiving
    threading.Thread(target=faults.watch, name="faults", daemon=True).start()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=False)
    parser.add_argument("--faults", type=Path, default=os.environ.get(VARIABLE))
    options, rest = parser.parse_known_args()
    if options.faults is None:
        parser.error(f"name a control file: --faults FILE, or {VARIABLE} in the environment")
    sys.argv = [sys.argv[0], *rest]
    install(Faults(Path(options.faults)))
    engine.main()


if __name__ == "__main__":
    main()
