"""A service as the file its manager reads. The same service gives the same bytes, on any machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from appliance.services.definition import Service, ServiceError, check
from appliance.template_files import environment


def plist(service: Service) -> bytes:
    """A launchd property list: `launchd.plist(5)`. Raises ServiceError."""
    check(service)
    if service.logs is None:
        raise ServiceError("launchd keeps no log: a folder for it is needed")
    return environment().get_template("launchd.plist.j2").render(service=service).encode()


def unit(service: Service) -> bytes:
    """A systemd unit: `systemd.service(5)`. Raises ServiceError."""
    check(service)
    made = environment().overlay()
    made.filters = {**made.filters, "command": _command, "word": _word, "unit": _path}
    return made.get_template("systemd.service.j2").render(service=service).encode()


def _command(words: Sequence[str]) -> str:
    """Variables are put into all words but the first, which may hold no quote and no backslash at all."""
    program, *rest = words
    if any(character in "\"'\\" for character in program):
        raise ServiceError(f"systemd runs no program with quotes or backslashes in its path: {program}")
    return " ".join([_word(program), *(_word(word).replace("$", "$$") for word in rest)])


def _word(text: str) -> str:
    """One word of `systemd.syntax(7)`: in quotes where it needs them, and `%` is no specifier."""
    text = text.replace("%", "%%")
    if text and not any(character.isspace() or character in "\"'\\;" for character in text):
        return text
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _path(path: Path) -> str:
    """A setting that is one path: taken as it is, spaces too."""
    return str(path).replace("%", "%%")
