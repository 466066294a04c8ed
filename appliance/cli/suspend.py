"""`lmx suspend` and `lmx resume`: nothing is changed for a while, whatever the file says."""

from __future__ import annotations

from appliance.cli.address import connect
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, Url
from appliance.cli.terminal import line, note, show, show_json
from appliance.cli.trying import caller


def suspend(file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """Observe and protect, and change nothing until `lmx resume`.

    What runs is kept running: a crashed engine returns, memory pressure is answered. Edits are read, shown
    and not acted on. A restart does not end it.
    """
    with connect(file, url) as appliance:
        answer = appliance.post("/admin/suspend", {"by": caller()})
    if output is Format.JSON:
        show_json(answer)
        return
    show(line("suspended: edits are read, nothing is changed", symbol=("✓", "green")))
    note("until `lmx resume`; a restart does not end it")


def resume(file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """End `lmx suspend`: the newest content of the file takes effect."""
    with connect(file, url) as appliance:
        answer = appliance.delete("/admin/suspend")
    if output is Format.JSON:
        show_json(answer)
        return
    text = "resumed: the file is followed again" if answer["cleared"] else "it was not suspended by a call"
    if answer["suspended"]:
        text = "the file itself says suspend: true; set it to false there"
    show(line(text, symbol=("✓", "green") if not answer["suspended"] else ("‖", "yellow")))
