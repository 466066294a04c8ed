"""`lmx bench`: how fast and how good the appliance is, so that one changed setting can be judged."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.address import connect
from appliance.cli.client import Appliance, Refused
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.terminal import Block, Span, busy, line, note, show, show_json, table

if TYPE_CHECKING:
    from appliance.benching.run import Plan

PARTS = ("speed", "chat", "coding", "tools", "json")
ROUNDS, QUALITY_ROUNDS, WITHIN = 7, 3, "15m"
QUICK_ROUNDS, QUICK_QUALITY_ROUNDS, QUICK_WITHIN = 4, 1, "40s"
STYLE = {"better": "green", "worse": "red", "noise": "dim"}
WORDS = {"noise": "within noise"}


def bench(
    quick: Annotated[
        bool, typer.Option("--quick", help="Less of everything: under a minute where models are small.")
    ] = False,
    save: Annotated[Path | None, typer.Option(metavar="OUT", help="Write the run to this file.")] = None,
    against: Annotated[
        Path | None, typer.Option(metavar="SAVED", help="Set this run beside one that was saved.")
    ] = None,
    only: Annotated[
        str | None, typer.Option(metavar="PARTS", help=f"Some of {','.join(PARTS)}; default: all.")
    ] = None,
    rounds: Annotated[int | None, typer.Option(min=1, max=100, help="Rounds of speeds.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest answer of a cell: more for models that think."),
    ] = None,
    within: Annotated[str | None, typer.Option(metavar="15m", help="Begin no new round after this.")] = None,
    model: Annotated[
        str, typer.Option("-m", "--model", help="A model of the file, by name or alias.")
    ] = "default",
    file: File = DEFAULT_FILE,
    url: Url = None,
    output: Output = Format.TEXT,
) -> None:
    """Measure speed and quality of a running appliance, and set two runs side by side.

    Save a run, change one setting, run again with --against: each difference is shown with whether it is more
    than noise. Nothing else should use the appliance meanwhile.
    """
    from appliance.benching import compare, document
    from appliance.benching.asking import NotAnswered
    from appliance.benching.run import run

    parts = _parts(only)
    earlier = _load(against) if against is not None else None
    if save is not None and not save.absolute().parent.is_dir():
        raise CliError(f"--save: there is no folder {save.absolute().parent}")
    with connect(file, url) as appliance:
        plan, seen = _plan(
            appliance, model, parts, quick=quick, rounds=rounds, within=within, max_tokens=max_tokens
        )
        began = time.time()
        try:
            with busy("looking at the appliance") as line_:
                found = run(appliance.url, appliance.headers, plan, line_.say)
        except NotAnswered as error:
            raise CliError(f"the run was given up: {error}") from error
        settings, after = _settings(appliance), _seen(appliance)
    if after["generation"] != seen["generation"]:
        raise CliError("the configuration was changed while it was measured: run it again")
    made = document.made(plan, found, seen, settings, began)
    if save is not None:
        try:
            document.save(made, save)
        except OSError as error:
            raise CliError(f"--save: {save} cannot be written: {error.strerror}") from error
    if earlier is not None:
        made["against"] = compare.compared(earlier, made, _differing(earlier, made))
    if output is Format.JSON:
        show_json(made)
    else:
        show(*_page(made))
        if plan.speeds and found.rounds < plan.rounds:
            note(f"the time was up after {found.rounds} of {plan.rounds} rounds; --within allows more")
        if made["cut"]:
            note(f"failed answers that were cut at their longest: {made['cut']}; --max-tokens allows more")


def _parts(only: str | None) -> tuple[str, ...]:
    if only is None:
        return PARTS
    given = tuple(part.strip() for part in only.split(","))
    for part in given:
        if part not in PARTS:
            raise CliError(f"--only: there is no part {part!r}; there are {', '.join(PARTS)}")
    return given


def _load(path: Path) -> dict[str, Any]:
    from appliance.benching import document

    try:
        return document.load(path)
    except document.BadDocument as error:
        raise CliError(f"--against: {error}") from error
    except OSError as error:
        raise CliError(f"--against: {path} cannot be read: {error.strerror}") from error


def _plan(
    appliance: Appliance,
    model: str,
    parts: tuple[str, ...],
    *,
    quick: bool,
    rounds: int | None,
    within: str | None,
    max_tokens: int | None,
) -> tuple[Plan, dict[str, Any]]:
    """What to measure, and what the appliance says of itself before it."""
    from appliance.benching import cells, speed
    from appliance.benching.run import Plan
    from reconciler.units import parse_duration

    try:
        seconds = parse_duration(within or (QUICK_WITHIN if quick else WITHIN))
    except ValueError as error:
        raise CliError(f"--within: {error}; write it with a unit, like 90s or 15m.") from error
    seen = _seen(appliance)
    listed = {entry["id"]: entry for entry in appliance.get("/v1/models")["data"]}
    chosen = next(
        (
            entry
            for entry in listed.values()
            if model == entry["id"] or model in entry["aliases"] or (model == "default" and entry["active"])
        ),
        None,
    )
    if chosen is None:
        known = ", ".join(listed) or "none"
        raise CliError(f"there is no model {model!r} to measure; the file names {known}")
    if chosen["role"] != "chat":
        raise CliError(f"{chosen['id']} is of role {chosen['role']}; the bench talks to models of role chat")
    if seen["others"]:
        note(f"{seen['others']} requests of others are being answered: the figures include what they cost")
    plan = Plan(
        model=chosen["id"],
        kind="quick" if quick else "full",
        sizes=speed.QUICK if quick else speed.FULL,
        rounds=rounds or (QUICK_ROUNDS if quick else ROUNDS),
        quality_rounds=QUICK_QUALITY_ROUNDS if quick else QUALITY_ROUNDS,
        within_s=seconds,
        cells=[cell for cell in cells.read() if cell.area in parts],
        max_tokens=max_tokens,
        speeds="speed" in parts,
        salt=secrets.token_hex(8),
        most=chosen["context"]["effective"],
    )
    return plan, seen


def _seen(appliance: Appliance) -> dict[str, Any]:
    status = appliance.get("/status")
    return {
        "name": status["name"],
        "version": status["version"],
        "generation": status["generation"],
        "digest": status["digest"],
        "others": status["traffic"]["in_flight"],
    }


def _settings(appliance: Appliance) -> Any:
    """The spec in force; None where this caller may not read it."""
    try:
        return appliance.get("/admin/config")["spec"]
    except Refused as error:
        note(f"the settings are not part of this run: {error.message}")
        return None


def _differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[dict[str, Any]]:
    from appliance.cli.diff import ABSENT, changes

    return [
        {
            "path": path,
            **({"before": old} if old is not ABSENT else {}),
            **({"after": new} if new is not ABSENT else {}),
        }
        for path, old, new in changes(before["settings"] or {}, after["settings"] or {})
    ]


def _page(made: Mapping[str, Any]) -> Iterator[Block]:
    head = f"{made['model']} on {made['appliance']['name']}, generation {made['appliance']['generation']}"
    yield line((head, "bold"), f"  {made['kind']} run of {wording.duration(made['seconds'])}")
    against = made.get("against")
    if against is None:
        yield from _alone(made)
        return
    yield line((f"against a run of {against['at']}", "dim"))
    for entry in against["settings"]:
        shown = " → ".join(wording_of(entry[side]) if side in entry else "–" for side in ("before", "after"))
        yield line(("changed   ", "dim"), f"{entry['path']}: {shown}")
    for text in against["notes"]:
        yield line(("mind      ", "dim"), (text, "yellow"))
    yield from _beside(made, against)


def _alone(made: Mapping[str, Any]) -> Iterator[Block]:
    rows: list[list[Span]] = [
        [
            figure["name"],
            amount(figure["median"]),
            f"{amount(figure['low'])} to {amount(figure['high'])}",
            figure["unit"],
        ]
        for figure in made["figures"]
    ]
    if rows:
        yield line()
        yield table(("SPEED", "MEDIAN", f"OF {len(made['figures'][0]['values'])} ROUNDS", "UNIT"), rows)
    if made["quality"]:
        yield line()
        yield table(("QUALITY", "PASSED", "FAILED"), [_failed(area) for area in made["quality"]])


def _failed(area: Mapping[str, Any]) -> list[Span]:
    names = [cell["name"].partition("/")[2] for cell in area["cells"] if not all(cell["passed"])]
    return [area["area"], f"{area['passed']} of {area['asked']}", ", ".join(names) or "-"]


def _beside(made: Mapping[str, Any], against: Mapping[str, Any]) -> Iterator[Block]:
    units = {figure["name"]: figure["unit"] for figure in made["figures"]}
    rows: list[list[Span]] = [
        [
            figure["name"],
            amount(figure["before"]),
            amount(figure["after"]),
            units[figure["name"]],
            "-" if figure["change"] is None else f"{figure['change']:+.1%}",
            verdict(figure),
        ]
        for figure in against["figures"]
    ]
    if rows:
        yield line()
        yield table(("SPEED", "BEFORE", "NOW", "UNIT", "CHANGE", "VERDICT"), rows)
    if against["quality"]:
        yield line()
        yield table(
            ("QUALITY", "BEFORE", "NOW", "VERDICT", "CELLS THAT CHANGED"),
            [
                [
                    area["area"],
                    f"{area['before']:.0%}",
                    f"{area['after']:.0%}",
                    verdict(area),
                    ", ".join(_moved(cell) for cell in area["cells"]) or "-",
                ]
                for area in against["quality"]
            ],
        )
    words = "better and worse: chance alone shows as much in under 5 % of runs, so in one line of twenty"
    yield line()
    yield line((words, "dim"))


def _moved(cell: Mapping[str, Any]) -> str:
    return f"{cell['name'].partition('/')[2]} {'+' if cell['after'] > cell['before'] else '−'}"


def verdict(entry: Mapping[str, Any]) -> Span:
    found = str(entry["verdict"])
    return WORDS.get(found, found), STYLE[found]


def amount(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def wording_of(value: Any) -> str:
    import json

    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."
