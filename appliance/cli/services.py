"""`lmx launchd` and `lmx systemd`: LMX as a service. Nothing is changed without --yes."""

from __future__ import annotations

import difflib
import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from appliance.cli import spec_file
from appliance.cli.failure import CHANGES, CliError
from appliance.cli.options import DEFAULT_FILE, File, Format, Output
from appliance.cli.terminal import line, show, show_json

if TYPE_CHECKING:
    from appliance.services.definition import Service
    from appliance.services.observed import Seen
    from appliance.services.steps import Step

MAC_PATH = "/opt/homebrew/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
LINUX_PATH = "/usr/local/bin:/usr/bin:/bin"

Agent = Annotated[
    bool,
    typer.Option("--agent/--daemon", help="Of one user, from login on; or of the machine, from boot."),
]
User = Annotated[
    str | None, typer.Option(metavar="NAME", help="Whose files a daemon uses; default: who you are.")
]
Label = Annotated[str, typer.Option(metavar="LABEL", help="Name of the service; a second one needs its own.")]
Variables = Annotated[
    list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="For its environment; no secrets.")
]
EnvFile = Annotated[
    Path | None, typer.Option(metavar="PATH", help="File of NAME=VALUE lines, mode 0600: for secrets.")
]
LogFolder = Annotated[Path | None, typer.Option("--logs", metavar="DIR", help="Folder of its log.")]
Yes = Annotated[bool, typer.Option("--yes", help="Run the commands instead of printing them.")]


@dataclass(frozen=True)
class Manager:
    """One way to be a service. seen: the command that tells its state, and what reads the answer."""

    name: str
    render: Callable[[Service], bytes]
    path: Callable[[Service], Path]
    install: Callable[[Service, Path], list[Step]]
    uninstall: Callable[[Service], list[Step]]
    ask: Callable[[Service], list[str]]
    read: Callable[[str], Seen]


def _manager(name: str) -> Manager:
    from appliance.services import observed, places, render, steps

    uid = os.getuid()
    if name == "launchd":
        return Manager(
            name,
            render.plist,
            places.plist_path,
            lambda service, staged: steps.launchd_install(service, staged, uid),
            lambda service: steps.launchd_uninstall(service, uid),
            lambda service: ["launchctl", "print", f"{places.domain(service, uid)}/{service.label}"],
            observed.launchctl,
        )
    fields = "ActiveState,SubState,MainPID,NRestarts,ExecMainStatus,Result"
    return Manager(
        name,
        render.unit,
        places.unit_path,
        steps.systemd_install,
        steps.systemd_uninstall,
        lambda service: [
            *steps.systemctl(service), "show", f"--property={fields}", f"{service.label}.service"
        ],
        observed.systemctl,
    )  # fmt: skip


def group(name: str) -> typer.Typer:
    """The verbs of one manager: `launchd` or `systemd`."""
    app = typer.Typer(no_args_is_help=True, help=f"LMX as a service of {name}.")
    mac = name == "launchd"
    first = "lmx.appliance"

    def define(
        file: Path,
        agent: bool,
        user: str | None,
        label: str,
        env: list[str] | None,
        env_file: Path | None,
        logs: Path | None,
    ) -> Service:
        return _define(file, agent, user, label, env, env_file, logs, mac=mac)

    @app.command()
    def render(
        file: File = DEFAULT_FILE,
        agent: Agent = False,
        user: User = None,
        label: Label = first,
        env: Variables = None,
        env_file: EnvFile = None,
        logs: LogFolder = None,
    ) -> None:
        """Print the file that the service manager reads. The same choices give the same bytes."""
        text = _rendered(_manager(name), define(file, agent, user, label, env, env_file, logs))
        sys.stdout.buffer.write(text)

    @app.command()
    def diff(
        file: File = DEFAULT_FILE,
        agent: Agent = False,
        user: User = None,
        label: Label = first,
        env: Variables = None,
        env_file: EnvFile = None,
        logs: LogFolder = None,
    ) -> None:
        """What is installed against what would be. Exits with 0 where they are the same, else with 2."""
        manager, service = _manager(name), define(file, agent, user, label, env, env_file, logs)
        place = manager.path(service)
        wanted, there = _rendered(manager, service).decode(), _installed(place)
        if there == wanted:
            show(line(f"{place} is as it should be", symbol=("✓", "green")))
            return
        sys.stdout.writelines(
            difflib.unified_diff(
                (there or "").splitlines(keepends=True),
                wanted.splitlines(keepends=True),
                str(place) if there is not None else "/dev/null",
                "rendered",
            )
        )
        raise typer.Exit(CHANGES)

    @app.command()
    def install(
        file: File = DEFAULT_FILE,
        agent: Agent = False,
        user: User = None,
        label: Label = first,
        env: Variables = None,
        env_file: EnvFile = None,
        logs: LogFolder = None,
        yes: Yes = False,
    ) -> None:
        """Print the commands that install and start it; with --yes, run them."""
        manager, service = _manager(name), define(file, agent, user, label, env, env_file, logs)
        _not_itself(service)
        data = _rendered(manager, service)
        if not yes:
            words = shlex.join(["lmx", name, "render", *_words(sys.argv)])
            staged = Path(f"{label}.{'plist' if mac else 'service'}")
            _print([f"{words} > {staged}", *(step.shown for step in manager.install(service, staged))])
            return
        with tempfile.TemporaryDirectory(prefix="lmx-service-") as folder:
            staged = Path(folder) / manager.path(service).name
            staged.write_bytes(data)
            _run(manager.install(service, staged))

    @app.command()
    def uninstall(
        file: File = DEFAULT_FILE, agent: Agent = False, label: Label = first, yes: Yes = False
    ) -> None:
        """Print the commands that stop and remove it; with --yes, run them. Its logs and state stay."""
        manager, service = _manager(name), _named(file, agent, label, mac=mac)
        _not_itself(service)
        steps = manager.uninstall(service)
        _run(steps) if yes else _print([step.shown for step in steps])

    @app.command()
    def status(
        file: File = DEFAULT_FILE, agent: Agent = False, label: Label = first, output: Output = Format.TEXT
    ) -> None:
        """What the service manager says of it. Exits with 1 where it knows none of that name."""
        manager, service = _manager(name), _named(file, agent, label, mac=mac)
        seen = manager.read(_told(manager.ask(service)))
        found = {"label": label, "state": seen.state, "pid": seen.pid, "runs": seen.runs}
        found |= {"exit_status": seen.exit_status, "detail": seen.detail, "file": str(manager.path(service))}
        if output is Format.JSON:
            show_json(found)
            return
        show(line(", ".join(f"{key} {value}" for key, value in found.items() if value is not None)))

    return app


def _define(
    file: Path,
    agent: bool,
    user: str | None,
    label: str,
    env: list[str] | None,
    env_file: Path | None,
    logs: Path | None,
    *,
    mac: bool,
) -> Service:
    """Raises CliError."""
    import pwd

    from appliance.services import definition, places

    spec = spec_file.read(file).spec
    kind: definition.Kind = "agent" if agent else "daemon"
    name = user or os.environ.get("SUDO_USER") or pwd.getpwuid(os.getuid()).pw_name
    try:
        home = Path(pwd.getpwnam(name).pw_dir)
    except KeyError:
        raise CliError(f"there is no user {name!r} on this machine") from None
    given: dict[str, str] = {}
    for text in env or []:
        variable, equals, value = text.partition("=")
        if not equals:
            raise CliError(f"--env {text}: write it as NAME=VALUE")
        given[variable] = value
    missing = definition.unmet(spec, given, env_file)
    if missing:
        raise CliError(
            f"{file} needs {', '.join(missing)} from the environment, which a service does not inherit: give "
            "--env NAME=VALUE, or --env-file FILE for secrets"
        )
    return definition.Service(
        label=label,
        kind=kind,
        python=Path(sys.executable),
        file=file.absolute(),
        user=None if agent else name,
        home=home,
        logs=(logs.absolute() if logs is not None else places.mac_logs(kind, home)) if mac or logs else None,
        stop_s=definition.stop_seconds(spec),
        path=MAC_PATH if mac else LINUX_PATH,
        environment=given,
        env_file=env_file.absolute() if env_file is not None else None,
    )


def _named(file: Path, agent: bool, label: str, *, mac: bool) -> Service:
    """Enough of a service to find it: works where lmx.yaml is broken or gone."""
    from appliance.services import definition, places

    kind: definition.Kind = "agent" if agent else "daemon"
    home = Path.home()
    logs = places.mac_logs(kind, home) if mac else None
    return definition.Service(label, kind, Path(sys.executable), file.absolute(), "root", home, logs, 0, "")


def _rendered(manager: Manager, service: Service) -> bytes:
    from appliance.services.definition import ServiceError

    try:
        return manager.render(service)
    except ServiceError as error:
        raise CliError(str(error)) from error


def _installed(place: Path) -> str | None:
    try:
        return place.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise CliError(f"{place} cannot be read: {error}") from error


def _not_itself(service: Service) -> None:
    """launchd and systemd both tell their jobs who they are."""
    if os.environ.get("XPC_SERVICE_NAME") == service.label or os.environ.get("LMX_SERVICE") == service.label:
        raise CliError("a service cannot replace itself: run this from a terminal, not from within it")


def _words(arguments: Sequence[str]) -> list[str]:
    """The options that `install` was given, for the `render` that goes before it."""
    words = list(arguments)
    return words[words.index("install") + 1 :] if "install" in words else []


def _print(commands: Sequence[str]) -> None:
    sys.stdout.write("".join(f"{command}\n" for command in commands))


def _run(steps: Sequence[Step]) -> None:
    """Each is shown, then run; the first that fails ends it."""
    for step in steps:
        show(line(step.shown))
        command = list(step.command)
        if step.root and os.getuid() != 0:
            command = ["sudo", *command]
        try:
            code = subprocess.run(command, check=False).returncode
        except OSError as error:
            raise CliError(f"{command[0]}: {error.strerror}") from error
        if code != 0 and not step.may_fail:
            raise CliError(f"it failed with exit status {code}; the steps before it are done")


def _told(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10.0, check=False)
    except FileNotFoundError:
        raise CliError(f"there is no {command[0]} on this machine") from None
    except subprocess.TimeoutExpired:
        raise CliError(f"{shlex.join(command)} did not answer within 10 s") from None
    if done.returncode != 0:
        text = done.stderr.strip() or f"exit status {done.returncode}"
        raise CliError(f"{shlex.join(command)}: {text}")
    return done.stdout
