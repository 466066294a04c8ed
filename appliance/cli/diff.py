"""`lmx diff`: what FILE says otherwise than what the appliance has, key by key.

The difference in meaning: defaults filled in, comments and order left out. What the appliance would do about
it is `lmx plan`'s to say.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import typer

from appliance.cli.address import connect
from appliance.cli.failure import CHANGES
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.spec_file import laid
from appliance.cli.status import over_the_file
from appliance.cli.terminal import line, note, show, show_json, table

ABSENT = object()
Change = tuple[str, Any, Any]  # dotted path, before, after; ABSENT where there is none


def diff(file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """Compare FILE with the configuration in force: exit 0 the same, 2 different.

    What came from the environment is compared and shown as the file writes it, never by its value.
    """
    from reconciler.fields import plain

    with connect(file, url) as appliance:
        config = appliance.get("/admin/config")
        words = over_the_file(appliance.get("/status"))
    if words:
        note(words)
    spec, running = laid(file, config).spec, config["spec"]
    # As JSON on both sides: what the appliance says has gone through it.
    wanted = json.loads(json.dumps(plain(spec, spec.unexpanded), default=str))
    found = list(changes(running, wanted))
    classes = _classes()
    if output is Format.JSON:
        show_json([_record(change, classes) for change in found])
    elif found:
        rows = [(path, _shown(before), _shown(after), _class(path, classes)) for path, before, after in found]
        show(table(("KEY", "IN FORCE", "IN FILE", "TAKES EFFECT"), rows))
    else:
        show(line(f"{file} says what is in force", symbol=("✓", "green")))
    if found:
        raise typer.Exit(CHANGES)


def changes(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Leaves that differ, in the order of `after`; a map that only one side has is one change."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in [*after, *(name for name in before if name not in after)]:
            inner = f"{path}.{name}" if path else str(name)
            yield from changes(before.get(name, ABSENT), after.get(name, ABSENT), inner)
    elif before is ABSENT or after is ABSENT or before != after:
        yield path, before, after


def _classes() -> dict[str, str]:
    """Pattern of a path, with * for a name of the user's, -> class of change."""
    from reconciler import fields
    from reconciler.spec import Spec

    return {row.path: row.change for row in fields.rows(Spec)}


def _class(path: str, classes: Mapping[str, str]) -> str:
    """Of a leaf; a whole model or template that comes or goes has none."""
    words = path.split(".")
    for pattern, found in classes.items():
        parts = pattern.split(".")
        if len(parts) == len(words) and all(
            part in ("*", word) for part, word in zip(parts, words, strict=True)
        ):
            return found
    return ""


def _shown(value: Any) -> str:
    if value is ABSENT:
        return "–"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _record(change: Change, classes: Mapping[str, str]) -> dict[str, Any]:
    path, before, after = change
    record: dict[str, Any] = {"path": path, "change": _class(path, classes) or None}
    if before is not ABSENT:
        record["before"] = before
    if after is not ABSENT:
        record["after"] = after
    return record
