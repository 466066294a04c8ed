"""`lmx models ...`: what the appliance has, loads and lets go."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.client import Appliance, NotRunning, Refused
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.pull import pull
from appliance.cli.status import STATE_STYLE, progress
from appliance.cli.terminal import Busy, Span, busy, line, show, show_json, table

Name = Annotated[str, typer.Argument(metavar="NAME", help="The model's key, an alias or its exact source.")]
LOOK = 0.5  # seconds between two looks at a load in progress

app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="List, load, unload, reload and download models."
)
app.command("pull")(pull)


@app.command("list")
def list_models(file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """List the models of the file, and what else lies in the Hub cache."""
    with connect(file, url) as appliance:
        answer = appliance.get("/admin/models")
    if output is Format.JSON:
        show_json(answer)
        return
    models = answer.get("models") or []
    if not models:
        show(line("The file names no model and the cache holds none."))
        return
    show(table(("MODEL", "STATE", "MEMORY", "ON DISK", "NOTE"), [_row(model) for model in models]))


def _row(model: Mapping[str, Any]) -> list[Span]:
    state = str(model.get("state", "-"))
    memory, disk = model.get("vram_gb"), model.get("disk_bytes")
    return [
        str(model.get("id")),
        (state, STATE_STYLE.get(state, "dim")),
        f"{memory:.2f} GB" if memory else "-",
        wording.size(disk) if disk else "-",
        str(model.get("source") or "") if model.get("declared", True) else ("not in the file", "dim"),
    ]


@app.command()
def load(name: Name, file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """Load a model, as an override until the file changes that."""
    with connect(file, url) as appliance, busy(f"Loading {name} ...") as spinner:
        answer = _watched(
            appliance,
            name,
            spinner,
            lambda: appliance.post("/admin/models/load", {"model": name}, patient=True),
        )
    if output is Format.JSON:
        show_json(answer)
    else:
        took = (
            wording.duration(answer["load_time_ms"] / 1000)
            if answer.get("load_time_ms", 0) >= 1000
            else f"{answer.get('load_time_ms', 0):.0f} ms"
        )
        show(
            line(
                f"{answer.get('model', name)} is ready: {took}, {answer.get('vram_gb', 0):.2f} GB",
                symbol=("✓", "green"),
            )
        )


@app.command()
def unload(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Default: the active model.")] = None,
    file: File = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
) -> None:
    """Drain a model and give its memory back, as an override until the file changes that."""
    with connect(file, url) as appliance, busy(f"Unloading {name or 'the active model'} ..."):
        answer = appliance.post("/admin/models/unload", {"model": name} if name else {}, patient=True)
    if output is Format.JSON:
        show_json(answer)
    else:
        show(line(f"unloaded: {answer.get('freed_vram_gb', 0):.2f} GB given back", symbol=("✓", "green")))


@app.command()
def reload(name: Name, file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """Give a model a fresh engine; it does not answer meanwhile."""
    with connect(file, url) as appliance, busy(f"Unloading {name} ...") as spinner:
        appliance.post("/admin/models/unload", {"model": name}, patient=True)
        started = time.monotonic()
        spinner.say(f"Loading {name} ...")
        appliance.delete("/admin/override", {"model": name})
        model = _until_ready(appliance, name, spinner)
    answer = {
        "success": True,
        "model": name,
        "load_time_ms": round((time.monotonic() - started) * 1000),
        "state": model["state"],
    }
    if output is Format.JSON:
        show_json(answer)
    else:
        show(line(f"{name} is {model['state']} again", symbol=("✓", "green")))


def _watched(appliance: Appliance, name: str, spinner: Busy, call: Callable[[], Any]) -> Any:
    """Make a long call while the spinner tells how far the model is."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            try:
                model = (appliance.get("/status").get("models") or {}).get(name, {})
            except (NotRunning, Refused):
                continue  # the call itself will say what is wrong
            done = progress(model.get("progress"))
            spinner.say(
                f"Loading {name}: {model.get('state', '...')}" + (f" {done:.0%}" if done is not None else "")
            )

    watcher = threading.Thread(target=look, daemon=True)
    watcher.start()
    try:
        return call()
    finally:
        over.set()
        watcher.join()


def _until_ready(appliance: Appliance, name: str, spinner: Busy) -> Mapping[str, Any]:
    """Look until what the file wants of this model is so. One that the file leaves on disk stays there."""
    while True:
        models: Mapping[str, Mapping[str, Any]] = appliance.get("/status").get("models") or {}
        model = models.get(name)
        if model is None:
            raise CliError(f"{name} is not in the file any more.")
        state = model.get("state")
        if state in ("ready", "paged_out", "on_disk"):
            return model
        if state in ("failed", "quarantined"):
            raise CliError(f"{name} is {state}: {model.get('reason') or 'see lmx status'}")
        spinner.say(f"Loading {name}: {state}")
        time.sleep(LOOK)
