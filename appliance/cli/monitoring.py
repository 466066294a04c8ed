"""`lmx monitoring`: the files that Prometheus and Grafana want, on standard output."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from appliance.cli import spec_file
from appliance.cli.failure import CliError
from appliance.cli.options import DEFAULT_FILE, File, UnusedFile

app = typer.Typer(no_args_is_help=True, help="Files for Prometheus and Grafana, on standard output.")

Targets = Annotated[
    list[str] | None, typer.Option("--target", metavar="HOST:PORT", help="A machine; may be given often.")
]
KeyFile = Annotated[
    Path | None, typer.Option(metavar="PATH", help="File with an API key, where `server.api_keys` is set.")
]


@app.command()
def scrape(file: File = DEFAULT_FILE, target: Targets = None, key_file: KeyFile = None) -> None:
    """A scrape job for Prometheus: of the machines given, else of this one."""
    targets = target or [f"localhost:{spec_file.read(file).spec.server.port}"]
    for one in targets:
        host, colon, port = one.rpartition(":")
        if not (host and colon and port.isdecimal() and host.isprintable() and " " not in host):
            raise CliError(f"--target {one}: write it as HOST:PORT")
    _write("prometheus.yml.j2", targets=targets, key_file=None if key_file is None else str(key_file))


@app.command()
def alerts(file: File = DEFAULT_FILE) -> None:
    """Alerting rules for Prometheus, with the service levels that FILE declares."""
    from appliance.monitoring import rules

    _write("alerts.yml.j2", alerts=rules.alerts(spec_file.read(file).spec.slo))


@app.command()
def grafana(file: UnusedFile = DEFAULT_FILE) -> None:
    """A dashboard to import into Grafana."""
    from appliance.monitoring.panels import panels

    _write("grafana.json.j2", panels=panels())


def _write(template: str, **values: object) -> None:
    from appliance.template_files import environment

    sys.stdout.write(environment().get_template(template).render(**values))
