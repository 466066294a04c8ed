"""`lmx models pull`: fetch a model before it is needed, with a bar that tells how long it will take.

The download is a child process that can be stopped at any moment; the next pull goes on where it was.
It runs here, not in the appliance, so it also works before the first `lmx up`.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import typer

from appliance.cli import wording
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output
from appliance.cli.spec_file import read
from appliance.cli.terminal import console, line, note, on_terminal, show, show_json

if TYPE_CHECKING:
    from appliance.hub import Wanted

FETCH = [sys.executable, "-m", "appliance.hub.fetch"]
STOP_WITHIN = 5.0  # seconds a download gets to end by itself before it is killed


def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A model of FILE, or a Hub repo as org/name.")],
    revision: Annotated[
        str | None,
        typer.Option(metavar="REVISION", help="Commit, tag or branch of a Hub repo; default: main."),
    ] = None,
    file: File = DEFAULT_FILE,
    output: Output = Format.TEXT,
) -> None:
    """Download a model; goes on where a stopped one ended."""
    done = []
    for wanted in _wanted(name, revision, file):
        answer = _fetch(wanted, name, quiet=output is Format.JSON)
        done.append({"repo": wanted.repo, "commit": answer["commit"], "path": answer["path"]})
        if output is Format.TEXT:
            at = str(answer["commit"])[:12]
            show(line(f"{wanted.repo} at {at} is complete: {answer['path']}", symbol=("✓", "green")))
    if output is Format.JSON:
        show_json({"pulled": done})
    elif not done:
        show(line(f"{name} is on this machine already.", symbol=("✓", "green")))


def _wanted(name: str, revision: str | None, file: Path) -> list[Wanted]:
    """For a key or alias of the file, or for a repo. Nothing for what is here and cannot change."""
    from appliance.hub import Wanted, wanted
    from reconciler.names import is_commit, is_hub

    is_repo = name.count("/") == 1 and is_hub(name)
    models = read(file).spec.models if file.exists() or not is_repo else {}
    key = next((key for key, model in models.items() if name in (key, *model.aliases)), None)
    if key is None:
        if not is_repo:
            known = ", ".join(models) or "none"
            raise CliError(
                f"{file} names no model {name!r} (it names: {known}), and a Hub repo is written org/name."
            )
        return [Wanted(name, revision)]
    model = models[key]
    if revision is not None:
        raise CliError(
            f"models.{key}.revision in {file} says which revision it is; --revision is for Hub repos."
        )
    parts = [(model.source, model.revision), *([(model.adapter, None)] if model.adapter else [])]
    code, base = model.trust_remote_code, file.absolute().parent
    missing = {
        part.repo for part in wanted(model.source, model.revision, model.adapter, base=base, code=code)
    }
    return [
        Wanted(s, r, code and s == model.source)
        for s, r in parts
        if is_hub(s) and (s in missing or not (r and is_commit(r)))
    ]


def _fetch(wanted: Wanted, name: str, *, quiet: bool) -> dict[str, Any]:
    """Run the download and show it; its last word. Raises CliError, or KeyboardInterrupt after ^C."""
    command = [*FETCH, wanted.repo, *(["--revision", wanted.revision] if wanted.revision else [])]
    command += ["--allow-code"] if wanted.code else []
    last: dict[str, Any] = {}
    with tempfile.TemporaryFile("w+") as complaints, _ended_by_signals():
        child = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=complaints,
            text=True,
            start_new_session=True,  # ^C is ours to handle
        )
        try:
            with _display(wanted.repo, quiet=quiet) as display:
                assert child.stdout is not None
                for text in child.stdout:
                    last = json.loads(text)
                    display.tell(last)
            child.wait()
        except KeyboardInterrupt:
            print(file=sys.stderr)
            note(f"stopped. What has come is kept: `lmx models pull {name}` goes on from there.")
            raise
        finally:
            _end(child)
        if last.get("event") == "done":
            return last
        if last.get("event") == "error":
            raise CliError(f"{last['message']} ({last['code']})")
        complaints.seek(0)
        why = complaints.read().strip().rpartition("\n")[2]
        raise CliError(
            f"the download of {wanted.repo} ended without a word{f': {why}' if why else ''}. Pull again."
        )


def _end(child: subprocess.Popen[str]) -> None:
    if child.poll() is None:
        child.terminate()
        try:
            child.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    if child.stdout is not None:
        child.stdout.close()


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """A SIGTERM or a closed terminal ends the download too, instead of leaving it behind."""

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class _Display(Protocol):
    def tell(self, message: dict[str, Any]) -> None: ...


class _Lines:
    """In a pipe: the start, every tenth, and what went wrong on the way, on stderr."""

    def __init__(self, repo: str, *, quiet: bool) -> None:
        self._repo, self._quiet, self._tenth = repo, quiet, 0

    def tell(self, message: dict[str, Any]) -> None:
        if self._quiet:
            return
        if message["event"] == "start":
            note(f"{self._repo}: {wording.size(message['total'])}")
        elif message["event"] in ("retry", "waiting"):
            note(message["message"])
        elif message["event"] == "progress" and message["total"]:
            tenth = 10 * message["done"] // message["total"]
            if tenth > self._tenth:
                self._tenth = tenth
                left = f", {wording.duration(message['eta'])} left" if message.get("eta") else ""
                note(f"{self._repo}: {tenth}0%, {wording.size(message['rate'])}/s{left}")


@contextmanager
def _display(repo: str, *, quiet: bool) -> Iterator[_Display]:
    if quiet or not (on_terminal() and sys.stderr.isatty()):
        yield _Lines(repo, quiet=quiet)
        return
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f}%", markup=False),
        TextColumn("{task.fields[words]}", markup=False, style="dim"),
    )
    with Progress(*columns, console=console(stderr=True), transient=True) as progress:
        task = progress.add_task(repo, total=None, words="asking the Hub")

        class Bar:
            def tell(self, message: dict[str, Any]) -> None:
                if message["event"] in ("start", "progress"):
                    words = f"{wording.size(message['done'])} of {wording.size(message['total'])}"
                    if message.get("rate"):
                        words += f"  {wording.size(message['rate'])}/s"
                    if message.get("eta"):
                        words += f"  {wording.duration(message['eta'])} left"
                    progress.update(
                        task, completed=message["done"], total=message["total"], words=words, refresh=True
                    )
                elif message["event"] in ("retry", "waiting"):
                    progress.update(task, words=message["message"], refresh=True)

        yield Bar()
