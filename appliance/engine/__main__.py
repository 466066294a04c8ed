"""`python -m appliance.engine --fd N`: one engine process, holding one end of a socket pair.

The order matters: die with the parent, say Hello, and only then import MLX and mlx-lm, which takes a
second. The main thread loads and decodes; others read, tokenise and beat.
"""

from __future__ import annotations

import argparse
import gc
import logging
import os
import queue
import socket
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, NoReturn

from appliance import lifeline, wire
from appliance.engine import beat, process, weights
from appliance.engine.constraint.compiler import Compiler
from appliance.engine.intake import Intake, Reader, Stop
from appliance.engine.link import Closed, Link
from appliance.engine.opening import Opening

log = logging.getLogger("appliance.engine")


def leave(status: int) -> NoReturn:
    """End now, whatever other threads do: a Metal call in progress cannot be waited for."""
    logging.shutdown()
    os._exit(status)


def read(link: Link, intake: Intake, orders: queue.SimpleQueue[wire.Load]) -> None:
    """The reading thread: never blocks on anything but the socket, never sends."""
    loading = False
    try:
        while True:
            message = link.receive()
            if isinstance(message, wire.Submit):
                intake.submit(message)
            elif isinstance(message, wire.Cancel):
                intake.cancel(message.rid)
            elif isinstance(message, wire.Configure):
                intake.configure(message)
            elif isinstance(message, wire.Load):
                if loading:
                    raise wire.WireError("a second Load: one engine holds one model")
                loading = True
                intake.encodes = message.role != "chat"
                orders.put(message)
            elif isinstance(message, wire.ListSessions | wire.DropSession):
                intake.inbox.put(message)  # answered once the model is loaded
            elif isinstance(message, wire.Embed | wire.Rank):
                if not intake.encodes:
                    raise wire.WireError(f"{type(message).__name__} in an engine of a chat model")
                intake.inbox.put(message)
            elif isinstance(message, wire.Count):
                intake.count(message)
            elif intake.reader is None:
                leave(wire.EXIT_OK)  # Shutdown while nothing is served
            else:
                intake.inbox.put(Stop())
    except Closed as error:
        log.info("%s", error)
        leave(wire.EXIT_PARENT_GONE)
    except wire.WireError as error:
        log.error("%s", error)
        leave(wire.EXIT_PROTOCOL)


def thread_failed(failure: threading.ExceptHookArgs) -> None:
    """No thread may end quietly: without its reader or its tokeniser an engine only looks alive."""
    if isinstance(failure.exc_value, Closed):
        leave(wire.EXIT_PARENT_GONE)
    name = failure.thread.name if failure.thread is not None else "?"
    log.critical("the %s thread failed", name, exc_info=failure.exc_value)
    leave(wire.EXIT_CRASHED)


def serve(link: Link, intake: Intake, gauge: beat.Gauge, order: wire.Load, blas: str | None) -> int:
    """Load, report, then decode until told to stop; the exit status."""
    started = time.monotonic()
    gauge.enter("load")

    def progress(done: int, total: int) -> None:
        gauge.advance()
        link.send(wire.Progress(done, total))

    try:
        config = weights.check(order)
        if order.role != "chat":
            return encode(link, intake, gauge, order, config, blas, progress)
        opening = Opening(order)
        from appliance.engine import load, warm  # MLX comes in here
        from appliance.engine.prompt_cache import PromptCache
        from appliance.engine.schedule import Scheduler

        model = load.load(order, config, progress)
        gauge.enter("compile")
        model = warm.up(model, gauge)
    except weights.BadModel as error:
        log.error("cannot load %s: %s: %s", order.model, error.code, error.message)
        link.send(wire.LoadFailed(error.code, error.message, error.permanent))
        return wire.EXIT_LOAD_FAILED
    cache = PromptCache(model, *opening.result())
    compiler = Compiler(model.tokenizer, model.vocabulary, model.end_tokens)
    intake.open(Reader(model.template, model.vocabulary, compiler, model.price), model.context_max)
    gauge.enter("idle")
    link.send(warm.loaded(model, time.monotonic() - started, blas))
    log.info("loaded %s from %s in %.2f s", order.model, order.path, time.monotonic() - started)
    gc.collect()
    gc.freeze()  # a million objects of imported libraries: walking them would stall a step by 0.1 s
    Scheduler(model, link, intake, gauge, cache).run()
    return wire.EXIT_OK


def encode(
    link: Link,
    intake: Intake,
    gauge: beat.Gauge,
    order: wire.Load,
    config: dict[str, Any],
    blas: str | None,
    progress: Callable[[int, int], None],
) -> int:
    """The same for an encoder, which answers questions instead. Raises BadModel."""
    started = time.monotonic()
    from appliance.engine.encoders import load, loop  # MLX comes in here

    model = load.load(order, config, progress)
    gauge.enter("compile")
    loop.warm(model, gauge)
    gauge.enter("idle")
    link.send(loop.loaded(model, time.monotonic() - started, blas))
    log.info("loaded %s from %s in %.2f s", order.model, order.path, time.monotonic() - started)
    gc.collect()
    gc.freeze()
    loop.Loop(model, link, intake, gauge).run()
    return wire.EXIT_OK


def main() -> NoReturn:
    parser = argparse.ArgumentParser(prog="python -m appliance.engine", description=__doc__.splitlines()[0])
    parser.add_argument("--fd", type=int, required=True, help="descriptor of a connected stream socket")
    options = parser.parse_args()
    parent = os.getppid()
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(levelname)s %(message)s")
    process.ignore_terminal_interrupts()
    if not lifeline.die_with_parent(parent):
        leave(wire.EXIT_PARENT_GONE)
    threading.excepthook = thread_failed
    os.environ["HF_HUB_OFFLINE"] = "1"  # models come from local folders: an engine never downloads
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    sys.setswitchinterval(0.0005)  # the decode thread takes over from a busy tokeniser within half a step
    link = Link(socket.socket(fileno=options.fd))
    gauge = beat.Gauge()
    intake = Intake(link)
    gauge.unread = lambda: intake.unread
    orders: queue.SimpleQueue[wire.Load] = queue.SimpleQueue()
    try:
        link.send(wire.Hello(os.getpid()))
        threading.Thread(target=read, args=(link, intake, orders), name="read", daemon=True).start()
        beat.start(link, gauge)
        blas = process.load_openblas()
        status = serve(link, intake, gauge, orders.get(), blas)
    except Closed as error:
        log.info("%s", error)
        status = wire.EXIT_PARENT_GONE
    except BaseException:
        log.critical("the engine's loop failed", exc_info=True)
        status = wire.EXIT_CRASHED
    leave(status)


if __name__ == "__main__":
    main()
