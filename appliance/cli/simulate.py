"""`lmx simulate`: try a degradation ladder on a trace, before trusting it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from appliance.cli import wording
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, FILE_VARIABLE, Format, Output
from appliance.cli.spec_file import read
from appliance.cli.terminal import Span, line, note, show, show_json, table

if TYPE_CHECKING:
    from reconciler.replay import Decision
    from reconciler.spec import Spec
    from reconciler.strain import Strain
    from reconciler.trace import Trace

STYLES = {"normal": "green", "warning": "yellow", "critical": "bold red"}
EVENTS = {"StepTaken": "yellow", "StepUndone": "green", "EngineRunaway": "bold red", "Ceilings": "dim"}


def simulate(
    trace: Annotated[
        str, typer.Argument(metavar="TRACE", help="Recorded by `lmx up --record`, or written; - is stdin.")
    ],
    spec: Annotated[
        Path,
        typer.Option(
            "-f",
            "--spec",
            "--file",
            envvar=FILE_VARIABLE,
            metavar="FILE",
            help="The file whose limits and ladder are tried.",
        ),
    ] = DEFAULT_FILE,
    output: Output = Format.TEXT,
) -> None:
    """Show what LMX would do under the memory, heat and load of TRACE, and why. Nothing runs."""  # fmt: skip
    wanted = read(spec).spec
    found = _trace(trace, wanted)
    from reconciler.replay import replay

    decisions, strain = replay(found.records, wanted)
    if found.cut:
        note(f"the last line of {trace} was cut off and is left out")
    if output is Format.JSON:
        show_json(_document(trace, spec, found, wanted, decisions, strain))
    else:
        _show(found, decisions, strain)


def _trace(name: str, spec: Spec) -> Trace:
    from reconciler.trace import TraceError, load

    budget = spec.memory.budget
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        return load(content, name, budget if isinstance(budget, int) else None)
    except TraceError as error:
        raise CliError(str(error)) from error
    except OSError as error:
        raise CliError(f"the trace {name} cannot be read: {error.strerror}.") from error


def _show(trace: Trace, decisions: list[Decision], strain: Strain) -> None:
    start, end = trace.records[0].reading.at, trace.records[-1].reading.at
    if trace.about:
        show(line((" ".join(trace.about.split()), "dim")))
    if decisions:
        rows = [_row(decision, start) for decision in decisions]
        show(table(("TIME", "LEVEL", "DECISION", "WHY"), rows))
    readings = wording.plural(len(trace.records), "reading")
    many = wording.plural(len(decisions), "decision")
    show(line(f"{readings} over {_time(end - start)}, {many}; at the end: {_end(strain)}"))


def _row(decision: Decision, start: float) -> list[Span]:
    level = decision.strain.pressure.level
    return [
        (_time(decision.at - start), "dim"),
        (level, STYLES[level]),
        (decision.type, EVENTS.get(decision.type, "cyan")),
        decision.message,
    ]


def _time(seconds: float) -> str:
    """Whole milliseconds: a recording's clock is far finer than its readings."""
    from reconciler.units import format_duration

    return format_duration(seconds)


def _end(strain: Strain) -> str:
    pressure = strain.pressure
    parts = [f"steps {', '.join(pressure.steps)}"] if pressure.steps else []
    parts += [f"{', '.join(pressure.shed)} shed"] if pressure.shed else []
    parts += [f"{pressure.unloaded} unloaded"] if pressure.unloaded else []
    parts += ["hot"] if pressure.hot else []
    parts += [f"{model} at stage {guard.stage}" for model, guard in strain.guards.items() if guard.stage]
    return "; ".join(parts) or "nothing in force"


def _document(
    name: str, spec: Path, trace: Trace, wanted: Spec, decisions: list[Decision], strain: Strain
) -> dict[str, Any]:
    from reconciler.replay import ceilings

    start, end = trace.records[0].reading.at, trace.records[-1].reading.at
    pressure = strain.pressure
    return {
        "trace": name,
        "spec": str(spec),
        "readings": len(trace.records),
        "seconds": end - start,
        "decisions": [
            {
                "t": decision.at,
                "after_s": decision.at - start,
                "type": decision.type,
                "message": decision.message,
                "data": dict(decision.data),
            }
            for decision in decisions
        ],
        "end": {
            "level": pressure.level,
            "cause": pressure.cause,
            "steps": list(pressure.steps),
            "shed": list(pressure.shed),
            "unloaded": pressure.unloaded,
            "hot": pressure.hot,
            "ceilings": ceilings(pressure, wanted),
            "stages": {model: g.stage for model, g in strain.guards.items()},
        },
    }
