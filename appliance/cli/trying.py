"""`lmx try`, `lmx confirm` and `lmx rollback`: another spec, held in memory over the file for a while.

LMX never writes the file. `confirm` and `rollback` therefore print the edit to make, as a diff on stdout that
`patch` takes; all else they say goes to stderr.
"""

from __future__ import annotations

import getpass
import platform
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.client import Appliance
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.spec_file import content
from appliance.cli.terminal import Line, busy, line, note, show, show_json

EVERY = 0.2  # seconds between two looks
SHOWN = 6  # changes that are named
Wait = Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until it runs.")]


def try_(
    tried: Annotated[Path | None, typer.Argument(metavar="FILE", help="The spec to try.")] = None,
    lasts: Annotated[str, typer.Option("--for", metavar="DURATION", help="Until it comes back.")] = "5m",
    end: Annotated[bool, typer.Option("--end", help="Go back to the file now.")] = False,
    wait: Wait = True,
    file: File = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
) -> None:
    """Try FILE in memory; by itself, LMX comes back to what its own file says.

    It is over when the time is, when LMX's file changes, at `lmx try --end`, and after a restart. It may
    arrange what the file names: another active model, limits, sampling, memory. Which models there are,
    where LMX listens and who may call is only the file's to say.
    """
    if end and tried is not None:
        raise CliError("--end ends what is tried; it takes no FILE.")
    if end:
        _end(file, url, output)
        return
    if tried is None:
        raise CliError("name the file to try: `lmx try new.yaml --for 5m`.")
    try:
        text = content(tried).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CliError(f"{tried} is not UTF-8.") from error
    body = {"spec": text, "for": lasts, "by": caller(), "file": str(tried)[-200:]}
    with connect(file, url) as appliance:
        answer = appliance.post("/admin/try", body)
        if answer.get("kept"):
            paths = ", ".join(change["path"] for change in answer["kept"])
            note(f"{tried} does not say these, and they stay as LMX's file has them: {paths}")
        if wait:
            answer = {**answer, **_reached(appliance, answer["try"])}
    show_json(answer) if output is Format.JSON else _tell(answer["try"])


def confirm(file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """Keep what is tried, and print the edit that keeps it for good.

    It has no deadline any more. It lasts until the file changes or LMX is started again: what is to outlive
    that belongs in the file, and LMX never writes the file.
    """
    with connect(file, url) as appliance:
        answer = appliance.post("/admin/confirm", {"by": caller()})
    if output is Format.JSON:
        show_json(answer)
        return
    note("kept until the file changes or LMX is started again. To keep it for good, make this edit:")
    show(*patch(answer["try"]["diff"]))


def rollback(
    generation: Annotated[
        int | None, typer.Argument(metavar="GENERATION", help="Default: the last-known-good.")
    ] = None,
    lasts: Annotated[str, typer.Option("--for", metavar="DURATION", help="Until it comes back.")] = "15m",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the edit and change nothing.")] = False,
    wait: Wait = True,
    file: File = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
) -> None:
    """Go back to the last-known-good generation, or another one: as a try, and with the edit to make.

    `lmx history` lists the generations. It takes effect at once, like `lmx try`; make the edit before its
    time is over. What only the file may say, such as server.port, is in the edit alone.
    """
    with connect(file, url) as appliance:
        if dry_run:
            query = "" if generation is None else f"?generation={generation}"
            answer = appliance.get(f"/admin/rollback{query}")
        else:
            asked = {"generation": generation, "for": lasts, "by": caller()}
            answer = appliance.post("/admin/rollback", asked)
            if wait and answer["try"] is not None and not answer["in_force"]:
                answer = {**answer, **_reached(appliance, answer["try"])}
    if output is Format.JSON:
        show_json(answer)
        return
    number = answer["generation"]
    if answer["left_out"]:
        paths = ", ".join(change["path"] for change in answer["left_out"])
        note(f"only the edit takes these back, a try does not: {paths}")
    if dry_run:
        note(f"this edit takes the file back to generation {number}:")
    elif answer["in_force"] or answer["try"] is None:
        note(f"generation {number} is what runs already; this edit makes the file say so:")
    else:
        note(f"generation {number} is in force {_until(answer['try'])}; make this edit before that:")
    show(*patch(answer["diff"]))


def caller() -> str:
    """Who asks, as others will read it; the appliance adds the address."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        name = "somebody"
    text = f"{name}@{platform.node() or 'somewhere'}"
    return "".join(letter for letter in text if letter.isprintable())[:64]


def patch(lines: Sequence[str]) -> list[Line]:
    """A unified diff, in colour on a terminal."""
    if not lines:
        return [line("the file says so already")]
    styles = {"+": "green", "-": "red", "@": "cyan"}
    return [
        line((text, "bold" if text.startswith(("+++", "---")) else styles.get(text[:1], "")))
        for text in lines
    ]


def _end(file: Path, url: str | None, output: Format) -> None:
    with connect(file, url) as appliance:
        answer = appliance.delete("/admin/try")
    if output is Format.JSON:
        show_json(answer)
    else:
        text = "the file is what is asked for again" if answer["cleared"] else "nothing was tried"
        show(line(text, symbol=("✓", "green")))


def _reached(appliance: Appliance, begun: Mapping[str, Any]) -> dict[str, Any]:
    """Look until all that it asks for has run. Raises CliError where it ends before."""
    with busy("Trying ...") as spinner:
        while True:
            answer: dict[str, Any] = appliance.get("/admin/try")
            found = answer["try"]
            if found is None:
                ended = answer["ended"] or {"why": "LMX was started again"}
                raise CliError(f"it did not come to run: {ended['why']}. The file is in force.")
            if found["at"] != begun["at"]:
                raise CliError("another try has taken its place; see `lmx status`.")
            if found["reached"]:
                return answer
            spinner.say(f"Trying: {_waits_for(appliance.get('/status'))}")
            time.sleep(EVERY)


def _waits_for(document: Mapping[str, Any]) -> str:
    synced: Mapping[str, Any] = next(
        (c for c in document.get("conditions") or [] if c["type"] == "Synced"), {}
    )
    return str(synced.get("message") or "on its way")


def _tell(found: Mapping[str, Any]) -> None:
    what = "in force" if found["reached"] else "on its way"
    shown = [f"{c['path']}: {c['old']} -> {c['new']}" for c in found["changes"][:SHOWN]]
    rest = len(found["changes"]) - SHOWN
    show(line(f"{what} {_until(found)}", symbol=("✓", "green")), *(line(f"  {one}") for one in shown))
    if rest > 0:
        show(line(f"  and {wording.plural(rest, 'more change')}"))
    note("it comes back by itself; `lmx confirm` keeps it, `lmx try --end` ends it")


def _until(found: Mapping[str, Any]) -> str:
    if found["until"] is None:
        return "until the file changes or LMX is started again"
    return f"until {wording.clock(found['until'])}, {wording.duration(found['left_s'])} from now"
