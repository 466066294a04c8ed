"""`lmx models ...`: what the appliance has, loads and lets go."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.client import Appliance
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.pull import pull
from appliance.cli.status import STATE_STYLE, progress
from appliance.cli.terminal import Busy, Span, busy, line, note, show, show_json, table

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
    memory, disk = model.get("vram_gb"), model.get("size_bytes")
    return [
        str(model.get("id")),
        (state, STATE_STYLE.get(state, "dim")),
        wording.size(int(memory * 2**30)) if memory else "-",
        wording.size(disk) if disk else "-",
        str(model.get("source") or "") if model.get("declared", True) else ("not in the file", "dim"),
    ]


@app.command()
def load(name: Name, file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """Load a model, as an override until the file changes that."""
    with connect(file, url) as appliance, busy(f"Loading {name} ...") as spinner:
        answer = _loaded(appliance, name, spinner)
    show_json(answer) if output is Format.JSON else _tell_loaded(name, answer)


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
        show(line(f"unloaded: {answer.get('freed_vram_gb', 0):.2f} GiB given back", symbol=("✓", "green")))
        if answer.get("active"):
            model = answer.get("model")
            note(f"{model} is the active model: requests are refused until it is loaded again, or an edit.")


@app.command()
def reload(name: Name, file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """Give a model a fresh engine; it does not answer meanwhile."""
    with connect(file, url) as appliance, busy(f"Unloading {name} ...") as spinner:
        freed = appliance.post("/admin/models/unload", {"model": name}, patient=True)
        answer = _loaded(appliance, name, spinner)
    if output is Format.JSON:
        show_json({**answer, "freed_vram_gb": freed.get("freed_vram_gb", 0)})
    else:
        _tell_loaded(name, answer)


def _loaded(appliance: Appliance, name: str, spinner: Busy) -> Any:
    spinner.say(f"Loading {name} ...")
    return _watched(
        appliance, name, spinner, lambda: appliance.post("/admin/models/load", {"model": name}, patient=True)
    )


def _tell_loaded(name: str, answer: Mapping[str, Any]) -> None:
    took, memory = answer.get("load_time_ms") or 0, answer.get("vram_gb") or 0
    show(
        line(
            f"{answer.get('model', name)} is ready: {took / 1000:.1f} s, {memory:.2f} GiB",
            symbol=("✓", "green"),
        )
    )


def _watched(appliance: Appliance, name: str, spinner: Busy, call: Callable[[], Any]) -> Any:
    """Make a long call while the spinner tells how far the model is."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(LOOK):
            try:
                model = (appliance.get("/status").get("models") or {}).get(name, {})
            except CliError:
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
