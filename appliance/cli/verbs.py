"""The `lmx` command, put together: every verb."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from appliance import __version__
from appliance.cli import fleet, models, monitoring, services, sessions
from appliance.cli.address import connect
from appliance.cli.bench import bench
from appliance.cli.chat import chat
from appliance.cli.completion import completion
from appliance.cli.config import config
from appliance.cli.diff import diff
from appliance.cli.doctor import doctor
from appliance.cli.drain import drain
from appliance.cli.events import events, history
from appliance.cli.explain import explain
from appliance.cli.init import init
from appliance.cli.metrics import metrics
from appliance.cli.options import DEFAULT_FILE, File, Format, Output, UnusedFile, Url
from appliance.cli.plan import plan
from appliance.cli.serve import serve
from appliance.cli.simulate import simulate
from appliance.cli.status import status
from appliance.cli.suspend import resume, suspend
from appliance.cli.terminal import line, show, show_json
from appliance.cli.trying import confirm, rollback, try_
from appliance.cli.up import up
from appliance.cli.upgrade import switch, upgrade
from appliance.cli.validate import schema, validate
from appliance.cli.wait import wait
from appliance.cli.warmup import warmup

app = typer.Typer(
    name="lmx",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)


@app.callback()
def lmx(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and leave.", is_eager=True)
    ] = False,
) -> None:
    """LMX serves local models as one YAML file says, and follows it under live traffic."""


def version(file: UnusedFile = DEFAULT_FILE, output: Output = Format.TEXT) -> None:
    """Show the version."""
    show_json({"version": __version__}) if output is Format.JSON else show(line(f"lmx {__version__}"))


def reconcile(file: File = DEFAULT_FILE, url: Url = None, output: Output = Format.TEXT) -> None:
    """Try again at once what failed: no back-off, no quarantine."""
    with connect(file, url) as appliance:
        answer = appliance.post("/admin/reconcile")
    show_json(answer) if output is Format.JSON else show(
        line("everything is tried anew", symbol=("✓", "green"))
    )


# The order of the help text: from a first file to daily use.
_order: tuple[Callable[..., None], ...] = (
    *(init, up, status, explain, metrics, chat, diff, plan, validate, wait, events, history),
)
_rest: tuple[Callable[..., None], ...] = (
    *(confirm, rollback, suspend, resume, reconcile, drain, serve, upgrade, switch, warmup, simulate),
    *(bench, doctor, config, schema),
)
_last: tuple[Callable[..., None], ...] = (completion, version)
for verb in _order:
    app.command()(verb)
app.command("try")(try_)  # a word that no Python function can have
for verb in (*_rest, *_last):
    app.command()(verb)
app.add_typer(models.app, name="models")
app.add_typer(sessions.app, name="sessions")
app.add_typer(fleet.app, name="fleet")
app.add_typer(services.group("launchd"), name="launchd")
app.add_typer(monitoring.app, name="monitoring")
app.add_typer(services.group("systemd"), name="systemd")
